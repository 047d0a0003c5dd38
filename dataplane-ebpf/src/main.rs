//! The programs of tunless: one per hook, each a straight line of steps.
//!
//! | program | hook | a packet's way |
//! |---|---|---|
//! | [`encap_pod`] | TC ingress of a pod's `cali*` | [`encap`]: pod → wire, fast path |
//! | [`encap_host`] | TC egress of the tunnel device | [`encap`]: stack → wire |
//! | [`decap_tc`] | TC ingress of the underlay NIC | [`decap`]: wire → pod or stack |
//! | [`decap_xdp`] | XDP of the underlay NIC | [`decap`]: checks and unwrap before an skb exists |
//! | [`grant_decap`] | TC egress of a pod's `cali*` | [`decap`]: leases for what netfilter let in |
//!
//! Every step either goes on or names the [`dataplane_common::Reason`] to
//! leave; the reason is counted and decides the verdict, here and nowhere else.
#![no_std]
#![no_main]

mod count;
mod decap;
mod encap;
mod flow;
mod kernel;
mod lease;
mod maps;
mod packet;
mod settings;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::{Reason, Verdict};

/// What a TC step list ends in: where the packet was redirected to by us, or why not.
type TcExit = Result<Redirected, Reason>;

/// A packet on its way: the reason to count and the action the redirect helper returned.
struct Redirected {
    reason: Reason,
    action: i32,
}

/// Fast path from a pod; whatever it does not take goes to the stack untouched.
#[classifier]
pub fn encap_pod(ctx: TcContext) -> i32 {
    leave(kernel::length(&ctx), encap::pod(&ctx))
}

/// What the stack hands to the tunnel device; what cannot be wrapped is dropped,
/// or left to tunl0 if that is the device.
#[classifier]
pub fn encap_host(ctx: TcContext) -> i32 {
    leave(encap::frame_length(&ctx), encap::host(&ctx))
}

/// From the wire, wrapped or already unwrapped by [`decap_xdp`].
#[classifier]
pub fn decap_tc(ctx: TcContext) -> i32 {
    leave(kernel::length(&ctx), decap::tc(&ctx))
}

/// From the wire before an skb exists. What it does not take is left to
/// [`decap_tc`], which judges and counts it.
#[xdp]
pub fn decap_xdp(ctx: XdpContext) -> u32 {
    let length = packet::Frame::of_xdp(&ctx).length();
    match decap::xdp(&ctx) {
        None => xdp_action::XDP_PASS,
        Some(reason) => {
            count::reason(reason, length);
            match reason.verdict() {
                Verdict::Dropped => xdp_action::XDP_DROP,
                Verdict::Passed | Verdict::Forwarded => xdp_action::XDP_PASS,
            }
        }
    }
}

/// From the stack into a pod; it only looks, and grants or revokes leases.
#[classifier]
pub fn grant_decap(ctx: TcContext) -> i32 {
    leave(kernel::length(&ctx), Err(decap::into_pod(&ctx)))
}

/// Counts the exit and translates it. `TC_ACT_UNSPEC` passes to the next
/// program on the hook; `TC_ACT_OK` would switch off everybody behind us.
#[inline(always)]
fn leave(length: u32, exit: TcExit) -> i32 {
    match exit {
        Ok(Redirected { reason, action }) => {
            count::reason(reason, length);
            action
        }
        Err(reason) => {
            count::reason(reason, length);
            match reason.verdict() {
                Verdict::Dropped => TC_ACT_SHOT,
                Verdict::Passed | Verdict::Forwarded => TC_ACT_UNSPEC,
            }
        }
    }
}

/// The helpers we call are partly GPL-only; ours is dual, and this is how the kernel is told.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never in the object: the build gate refuses one that can panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
