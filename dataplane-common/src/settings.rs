//! What a program knows from the moment it is loaded.

use crate::{Ipv4Be, Mac, layout::plain};

plain! {
    /// Load-time settings: a read-only global of every program, so the
    /// verifier knows the values and removes the branches not taken.
    ///
    /// A change means loading anew and swapping the links, which loses no packet.
    pub struct Settings {
        /// Our underlay address: the source we write, the destination we accept.
        pub node: Ipv4Be,
        /// The tunnel device's interface index.
        pub tunnel_ifindex: u32,
        /// The tunnel device's MAC: a frame handed to its ingress must carry it.
        pub tunnel_mac: Mac,
        /// [`Settings::OFF`] or [`Settings::TRUSTED`].
        pub fastpath: u8,
        /// [`Settings::SPOOF_DROP`] or [`Settings::SPOOF_STACK`].
        pub spoof: u8,
        /// The secret by which `decap_tc` knows what `decap_xdp` vouches for:
        /// metadata can be written by others, too. Kept over restarts.
        pub handover: u32,
    }
}

impl Settings {
    /// Stack path only.
    pub const OFF: u8 = 0;
    /// Straight out for a known CIDR, straight in for a known endpoint.
    pub const TRUSTED: u8 = 1;

    /// A proven lie about the inner source is dropped.
    pub const SPOOF_DROP: u8 = 0;
    /// It goes to the stack, whose rules judge it.
    pub const SPOOF_STACK: u8 = 1;
}
