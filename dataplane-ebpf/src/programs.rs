//! The programs: what each is given, and which list of steps it runs.
#![expect(clippy::needless_pass_by_value, reason = "the macros pass contexts by value")]

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{decap, encap, exit, packet::Frame, shadow, skb};

/// Fast path from a pod; whatever it does not take goes to the stack untouched.
#[classifier]
pub fn encap_pod(ctx: TcContext) -> i32 {
    exit::tc(skb::length(&ctx), encap::pod(&ctx))
}

/// What the stack hands to the tunnel device; what cannot be wrapped is dropped,
/// or left to tunl0 if that is the device.
#[classifier]
pub fn encap_host(ctx: TcContext) -> i32 {
    exit::tc(encap::frame_length(&ctx), encap::host(&ctx))
}

/// From the wire, wrapped or already unwrapped by [`decap_xdp`].
#[classifier]
pub fn decap_tc(ctx: TcContext) -> i32 {
    exit::tc(skb::length(&ctx), decap::tc(&ctx))
}

/// From the wire before an skb exists. What it does not take is left to
/// [`decap_tc`], which judges and counts it.
#[xdp]
pub fn decap_xdp(ctx: XdpContext) -> u32 {
    let length = Frame::of_xdp(&ctx).length();
    match decap::xdp(&ctx) {
        Some(reason) => exit::xdp(length, reason),
        None => xdp_action::XDP_PASS,
    }
}

/// From the stack into a pod; it only looks, and grants or revokes leases.
#[classifier]
pub fn grant_decap(ctx: TcContext) -> i32 {
    exit::tc(skb::length(&ctx), decap::into_pod(&ctx))
}

/// Beside tunl0: what leaves, compared with what we would have sent.
#[classifier]
pub fn shadow_out(ctx: TcContext) -> i32 {
    shadow::out(&ctx);
    TC_ACT_UNSPEC
}

/// Beside tunl0: what arrives, and what we would have made of it.
#[classifier]
pub fn shadow_in(ctx: TcContext) -> i32 {
    shadow::into(&ctx);
    TC_ACT_UNSPEC
}
