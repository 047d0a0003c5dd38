//! One function per kernel helper we use, with the flags it needs.

use core::ptr::null_mut;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated,
    programs::{TcContext, XdpContext},
};
use dataplane_common::{IfIndex, Ipv4Be, ipv4::OUTER_LENGTH};
use network_types::eth::EthHdr;

use crate::{settings, skb};

/// `-EALREADY`: the skb has encapsulation offloads pending (net/core/filter.c,
/// `bpf_skb_net_grow`).
const EALREADY: i64 = 114;

/// Without `FIXED_GSO` the kernel would change `gso_size` by 20, and without
/// `NO_CSUM_RESET` forget what the NIC verified; the outer header has no L4
/// checksum that would need either.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

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
/// `ENCAP_L3` lets the kernel know of it: without it software GSO would cut the
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
    let flags = ROOM | settings::unwrap_flags();
    ctx.adjust_room(-(OUTER_LENGTH as i32), BPF_ADJ_ROOM_MAC, flags)
}

/// Takes the tag of VLAN 0, if there is one, off a packet that we send on: it was for this hop.
/// Ends every [`crate::packet::Frame`].
#[inline(always)]
pub fn drop_priority_tag(ctx: &TcContext) {
    if skb::has_vlan_tag(ctx) {
        // SAFETY: a helper call on our own context. It cannot fail: the tag is not in the frame
        // (`net/core/skbuff.c`, `skb_vlan_pop`).
        unsafe { generated::bpf_skb_vlan_pop(ctx.skb.skb) };
    }
}

/// Corrects the TCP or UDP checksum, `at` bytes into the frame, for an address that changes: part of
/// the pseudo-header, which also a checksum that the NIC completes covers already. Ends every
/// [`crate::packet::Frame`].
#[inline(always)]
pub fn replace_address(
    ctx: &TcContext,
    at: usize,
    is_udp: bool,
    old: Ipv4Be,
    new: Ipv4Be,
) -> Result<(), i64> {
    let flags = u64::from(BPF_F_PSEUDO_HDR) | size_of::<Ipv4Be>() as u64;
    replace(ctx, at, is_udp, u64::from(old.0), u64::from(new.0), flags)
}

/// As [`replace_address`], for a port. A checksum that the NIC completes does not cover it yet, so
/// this must not say that it is of the pseudo-header.
#[inline(always)]
pub fn replace_port(
    ctx: &TcContext,
    at: usize,
    is_udp: bool,
    old: u16,
    new: u16,
) -> Result<(), i64> {
    replace(ctx, at, is_udp, u64::from(old), u64::from(new), size_of::<u16>() as u64)
}

#[inline(always)]
fn replace(
    ctx: &TcContext,
    at: usize,
    is_udp: bool,
    old: u64,
    new: u64,
    flags: u64,
) -> Result<(), i64> {
    // UDP without a checksum says 0, and stays without (RFC 768).
    let flags = flags | if is_udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
    // SAFETY: a helper call on our own context.
    match unsafe { generated::bpf_l4_csum_replace(ctx.skb.skb, at as u32, old, new, flags) } {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Returns the interface an XDP frame came in by.
#[inline(always)]
pub fn xdp_ifindex(ctx: &XdpContext) -> IfIndex {
    // SAFETY: the context is valid while the program runs.
    IfIndex(unsafe { (*ctx.ctx).ingress_ifindex })
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
pub fn redirect(ifindex: IfIndex) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect(ifindex.0, 0) as i32 }
}

/// Out of `ifindex`, to the next hop the kernel looks up and resolves.
#[inline(always)]
pub fn redirect_neigh(ifindex: IfIndex) -> i32 {
    // SAFETY: no parameters are passed, which the helper allows.
    unsafe { generated::bpf_redirect_neigh(ifindex.0, null_mut(), 0, 0) as i32 }
}

/// Into the ingress of `ifindex`, as if it had come from there.
#[inline(always)]
pub fn redirect_ingress(ifindex: IfIndex) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect(ifindex.0, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Into the other end of the veth `ifindex`, in its own namespace.
#[inline(always)]
pub fn redirect_peer(ifindex: IfIndex) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_redirect_peer(ifindex.0, 0) as i32 }
}

/// Forgets the hash over the outer header: all flows of two nodes share that one.
#[inline(always)]
pub fn forget_hash(ctx: &TcContext) {
    // SAFETY: a helper call on our own context.
    unsafe { generated::bpf_set_hash_invalid(ctx.as_ptr().cast()) };
}

/// The kernel's timer ticks: how many a second, the kernel knows. A load from memory, because the
/// verifier puts that in the place of the call (`kernel/bpf/verifier.c`).
#[inline(always)]
pub fn tick() -> u64 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_jiffies64() }
}

/// `CLOCK_MONOTONIC`, nanoseconds, to the last timer tick: cheap.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_ktime_get_coarse_ns() }
}

/// A number by chance.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { generated::bpf_get_prandom_u32() }
}

/// Reads a value back from the stack, where the compiler then has to keep it.
///
/// It would compare it as soon as it is known, and the verifier would follow everything after that
/// once for each outcome.
#[inline(always)]
pub fn kept<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(value) }
}
