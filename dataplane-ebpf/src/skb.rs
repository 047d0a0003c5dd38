//! The fields of `__sk_buff` that we read, and the two that we write.

use aya_ebpf::programs::TcContext;
use dataplane_common::IfIndex;
use network_types::eth::EtherType;

/// `include/uapi/linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

/// Returns the frame length, Ethernet header and paged data included.
#[inline(always)]
pub fn length(ctx: &TcContext) -> u32 {
    ctx.len()
}

/// Whether the kernel takes it for IPv4.
#[inline(always)]
pub fn is_ipv4(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).protocol == u32::from(EtherType::Ipv4 as u16) }
}

/// Payload bytes per segment, 0 for a packet that will not be segmented.
#[inline(always)]
pub fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).gso_size }
}

/// The interface the packet is on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> IfIndex {
    // SAFETY: as above.
    IfIndex(unsafe { (*ctx.skb.skb).ifindex })
}

/// The interface the packet came in by; none if it is this host's own.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> IfIndex {
    // SAFETY: as above.
    IfIndex(unsafe { (*ctx.skb.skb).ingress_ifindex })
}

/// Takes the bits of `mask` off `skb->mark`; returns those that were on.
#[inline(always)]
pub fn take_mark(ctx: &TcContext, mask: u32) -> u32 {
    // SAFETY: as above.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark & mask != 0 {
        // SAFETY: a field that programs on this hook may write.
        unsafe { (*ctx.skb.skb).mark = mark & !mask };
    }
    mark & mask
}

/// What an ingress hook of ours left in the packet; 0: nothing. Routing and
/// netfilter do not touch `tc_index` (nor may a program in between return
/// `TC_ACT_OK`, which overwrites it: `net/core/dev.c`, `tcx_action_code`).
#[inline(always)]
pub fn flow_tag(ctx: &TcContext) -> u16 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).tc_index as u16 }
}

/// Leaves `tag` in the packet for the hooks behind netfilter.
#[inline(always)]
pub fn set_flow_tag(ctx: &TcContext, tag: u16) {
    // SAFETY: as in `take_mark`.
    unsafe { (*ctx.skb.skb).tc_index = u32::from(tag) };
}

/// Whether the frame was addressed to this host.
#[inline(always)]
pub fn is_for_host(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// Returns whether the frame was addressed to many: to all, or to a group.
#[inline(always)]
pub fn is_for_many(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    matches!(unsafe { (*ctx.skb.skb).pkt_type }, PACKET_BROADCAST | PACKET_MULTICAST)
}

/// Returns whether the packet is a VLAN's, and so another device's. A tag of VLAN 0 carries a
/// priority and nothing else (IEEE 802.1Q §6.9): the kernel takes such a frame for an untagged one,
/// but only behind this hook (`net/core/dev.c`, `__netif_receive_skb_core`).
#[inline(always)]
pub fn is_in_vlan(ctx: &TcContext) -> bool {
    const VLAN_ID: u32 = 0xfff;
    // SAFETY: as above. Before 6.2 the tag means nothing unless it is present.
    has_vlan_tag(ctx) && unsafe { (*ctx.skb.skb).vlan_tci } & VLAN_ID != 0
}

/// Returns whether a VLAN tag, be it of VLAN 0, was taken out of the frame.
#[inline(always)]
pub fn has_vlan_tag(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}
