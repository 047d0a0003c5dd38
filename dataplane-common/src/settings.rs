//! What a program knows from the moment it is loaded.

use crate::{IfIndex, Ipv4Be, Mac, layout::plain};

plain! {
    /// Load-time settings: a read-only global of every program, so the
    /// verifier knows the values and removes the branches not taken.
    ///
    /// A change means loading anew and swapping the links, which loses no packet.
    pub struct Settings {
        /// How long a lease is good for, ns.
        pub lease: u64,
        /// Our underlay address: the source we write, the destination we accept.
        pub node: Ipv4Be,
        /// The tunnel device's interface index.
        pub tunnel_ifindex: IfIndex,
        /// The tunnel device's MAC: a frame handed to its ingress must carry it.
        pub tunnel_mac: Mac,
        /// [`Settings::OFF`], [`Settings::TRUSTED`] or [`Settings::VERIFIED`].
        pub fastpath: u8,
        /// [`Settings::SPOOF_DROP`] or [`Settings::SPOOF_STACK`].
        pub spoof: u8,
        /// By this `decap_tc` knows what `decap_xdp` vouches for (metadata can be
        /// written by others, too), and a granting hook what an ingress hook saw
        /// ([`crate::Flow::tag`]). Kept over restarts.
        pub secret: u32,
        /// The bit of `skb->mark` by which netfilter tells that it would let the
        /// whole flow pass.
        pub mark: u32,
        /// The bit by which it tells the same of a flow that conntrack translates for a Service; 0:
        /// such flows are not leased.
        pub service_mark: u32,
        /// Both bits together, by which it tells of a UDP flow that it lets pass and that has no answer;
        /// 0: such flows are not leased.
        pub unanswered_mark: u32,
        /// Capacity of `UNANSWERED` ([`crate::unanswered::sets`]), a power of two.
        pub unanswered_sets: u32,
        /// For how long a Service lease that was revoked is not granted again, ms.
        pub rest: u32,
        /// Bytes of link header on the tunnel device: 14 on our own, 0 on tunl0.
        ///
        /// With tunl0 the kernel can encapsulate, too: what `encap_host` does not
        /// take it leaves to it.
        pub tunnel_header: u16,
        /// 1: a `tunless try` is under way, whose end is in the map `TRY`; else 0.
        pub is_tried: u16,
        /// Flags beside the usual ones with which `bpf_skb_adjust_room` takes an outer header off,
        /// so that the packet is no tunnel packet any more; 0 where the kernel has none.
        pub unwrap_flags: u32,
    }
}

impl Settings {
    /// Stack path only.
    pub const OFF: u8 = 0;
    /// Straight out for a known CIDR, straight in for a known endpoint.
    pub const TRUSTED: u8 = 1;
    /// A flow that netfilter has let pass, for as long as its lease.
    pub const VERIFIED: u8 = 2;

    /// A proven lie about the inner source is dropped.
    pub const SPOOF_DROP: u8 = 0;
    /// It goes to the stack, whose rules judge it.
    pub const SPOOF_STACK: u8 = 1;
}
