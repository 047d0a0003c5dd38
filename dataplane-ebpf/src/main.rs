//! The programs of tunless: one per hook, each a straight line of steps.
//!
//! | program | hook | a packet's way |
//! |---|---|---|
//! | [`encap_pod`](programs::encap_pod) | TC ingress of a pod's `cali*` | [`encap`]: pod → wire, fast path |
//! | [`encap_host`](programs::encap_host) | TC egress of the tunnel device | [`encap`]: stack → wire |
//! | [`decap_tc`](programs::decap_tc) | TC ingress of the underlay NIC | [`decap`]: wire → pod or stack |
//! | [`decap_xdp`](programs::decap_xdp) | XDP of the underlay NIC | [`decap`]: checks and unwrap before an skb exists |
//! | [`grant_decap`](programs::grant_decap) | TC egress of a pod's `cali*` | [`decap`]: leases for what netfilter let in |
//! | [`shadow_out`](programs::shadow_out), [`shadow_in`](programs::shadow_in) | TC of the underlay NIC | [`shadow`]: in `mode: shadow` alone, beside tunl0; they only look |
//!
//! Every step either goes on or names the [`dataplane_common::Reason`] to
//! leave; [`exit`] counts the reason, which decides the verdict, and nothing else does.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod count;
mod decap;
mod encap;
mod exit;
mod flow;
mod helpers;
mod lease;
mod maps;
mod packet;
mod programs;
mod routes;
mod settings;
mod shadow;
mod skb;
mod wide;

/// The helpers we call are partly GPL-only; ours is dual, and the kernel reads that here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never in the object: the build gate refuses one that can panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
