//! One function per kernel helper we use, with the flags it needs.

use core::ptr::null_mut;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        BPF_F_INGRESS, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated,
    programs::{TcContext, XdpContext},
};
use dataplane_common::ipv4::OUTER_LENGTH;
use network_types::eth::{EthHdr, EtherType};

const PACKET_HOST: u32 = 0;

/// `-EALREADY`: the skb has encapsulation offloads pending (net/core/filter.c,
/// `bpf_skb_net_grow`).
const EALREADY: i64 = 114;

/// Without FIXED_GSO the kernel would change `gso_size` by 20, and without
/// NO_CSUM_RESET forget what the NIC verified; the outer header has no L4
/// checksum that would need either.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Frame length, Ethernet header and paged data included.
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
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// The interface the packet came in by; 0 if it is this host's own.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Takes the bits of `mask` off `skb->mark`; whether any was on.
#[inline(always)]
pub fn take_mark(ctx: &TcContext, mask: u32) -> bool {
    // SAFETY: as above.
    let mark = unsafe { (*ctx.skb.skb).mark };
    if mark & mask == 0 {
        return false;
    }
    // SAFETY: a field that programs on this hook may write.
    unsafe { (*ctx.skb.skb).mark = mark & !mask };
    true
}

/// What an ingress hook of ours left in the packet; 0: nothing. Routing and
/// netfilter do not touch `tc_index` (nor may a program in between return
/// `TC_ACT_OK`, which overwrites it: `net/core/dev.c`, `tcx_action_code`).
#[inline(always)]
pub fn proof(ctx: &TcContext) -> u16 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).tc_index as u16 }
}

/// Leaves `proof` in the packet for the hooks behind netfilter.
#[inline(always)]
pub fn set_proof(ctx: &TcContext, proof: u16) {
    // SAFETY: as in `take_mark`.
    unsafe { (*ctx.skb.skb).tc_index = u32::from(proof) };
}

/// Whether the frame was addressed to this host.
#[inline(always)]
pub fn is_for_host(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_HOST }
}

/// Whether a VLAN tag was taken out of the frame: the packet is another device's.
#[inline(always)]
pub fn has_vlan_tag(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// Makes the first `length` bytes readable. Ends every [`crate::packet::Frame`].
#[inline(always)]
pub fn pull(ctx: &TcContext, length: u32) {
    // A failure (no memory) leaves the packet as short as it was, which the
    // reader notices.
    let _ = ctx.pull_data(length);
}

/// Cuts the frame to `length` bytes.
#[inline(always)]
pub fn trim(ctx: &TcContext, length: u32) -> Result<(), i64> {
    // SAFETY: a helper call on our own context.
    match unsafe { generated::bpf_skb_change_tail(ctx.skb.skb, length, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Why there was no room for an outer header. The packet is as it was.
pub enum NoRoom {
    /// It is already a tunnel packet with offloads pending.
    AlreadyEncapsulated,
    /// GSO that is neither TCP nor UDP, or no memory.
    Other,
}

/// Opens room for the outer header behind the Ethernet header.
///
/// ENCAP_L3 lets the kernel know of it: without it software GSO would cut the
/// wrong packet.
#[inline(always)]
pub fn open_room(ctx: &TcContext) -> Result<(), NoRoom> {
    let flags = ROOM | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
    match ctx.adjust_room(OUTER_LENGTH as i32, BPF_ADJ_ROOM_MAC, flags) {
        Ok(()) => Ok(()),
        Err(error) if error == -EALREADY => Err(NoRoom::AlreadyEncapsulated),
        Err(_) => Err(NoRoom::Other),
    }
}

/// Puts an Ethernet header of zeros in front of a frame that has none.
#[inline(always)]
pub fn prepend_ethernet(ctx: &TcContext) -> Result<(), i64> {
    // SAFETY: a helper call on our own context.
    match unsafe { generated::bpf_skb_change_head(ctx.skb.skb, EthHdr::LEN as u32, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Takes the outer header out from behind the Ethernet header.
#[inline(always)]
pub fn close_room(ctx: &TcContext) -> Result<(), i64> {
    ctx.adjust_room(-(OUTER_LENGTH as i32), BPF_ADJ_ROOM_MAC, ROOM)
}

/// Moves the start of an XDP frame by `delta` bytes; metadata goes along.
#[inline(always)]
pub fn xdp_adjust_head(ctx: &XdpContext, delta: i32) -> Result<(), i64> {
    // SAFETY: a helper call on our own context.
    match unsafe { generated::bpf_xdp_adjust_head(ctx.ctx, delta) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Moves the start of an XDP frame's metadata by `delta` bytes.
#[inline(always)]
pub fn xdp_adjust_meta(ctx: &XdpContext, delta: i32) -> Result<(), i64> {
    // SAFETY: a helper call on our own context.
    match unsafe { generated::bpf_xdp_adjust_meta(ctx.ctx, delta) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Out of `ifindex`, with the MACs the frame has. Returns the action.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect(ifindex, 0) as i32 }
}

/// Out of `ifindex`, to the next hop the kernel looks up and resolves.
#[inline(always)]
pub fn redirect_neigh(ifindex: u32) -> i32 {
    // SAFETY: no parameters are passed, which the helper allows.
    unsafe { generated::bpf_redirect_neigh(ifindex, null_mut(), 0, 0) as i32 }
}

/// Into the ingress of `ifindex`, as if it had come from there.
#[inline(always)]
pub fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Into the other end of the veth `ifindex`, in its own namespace.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Forgets the hash over the outer header: all flows of two nodes share that one.
#[inline(always)]
pub fn forget_hash(ctx: &TcContext) {
    // SAFETY: a helper call on our own context.
    unsafe { generated::bpf_set_hash_invalid(ctx.as_ptr().cast()) };
}

/// `CLOCK_MONOTONIC`, nanoseconds, to the last timer tick: cheap.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_ktime_get_coarse_ns() }
}
