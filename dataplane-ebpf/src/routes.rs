//! The longest route that covers an address.

use dataplane_common::{Ipv4Be, Prefix, Route, layout::MAX_MASKS};

use crate::maps;

/// The longest route that covers `address`.
#[inline(always)]
pub fn route(address: Ipv4Be) -> Option<Route> {
    Route::from_word(longest_route(address.0, 0))
}

/// The longest route by which the kernel may have sent a packet to the tunnel device. It sends none
/// there for an address that is here: one that was, and is not any more, has moved while the daemon was dead.
#[inline(always)]
pub fn route_to(address: Ipv4Be) -> Option<Route> {
    Route::from_word(longest_route(address.0, Route::LOCAL.into()))
}

/// [`Route::word`] of the longest route that covers `address` (as on the wire), 0 if none does.
/// Routes with one of the flags `if_kept` count only while the daemon keeps them.
///
/// A function with a symbol of its own is *global* to the verifier, which follows it once, for any
/// arguments (`do_check_subprogs` in `kernel/bpf/verifier.c`). As a part of its callers the loop
/// was followed again with each state in which they come to it: most of what a start had to wait for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn longest_route(address: u32, if_kept: u32) -> u64 {
    let address = Ipv4Be(address);
    for index in 0..MAX_MASKS as u32 {
        let Some(mask) = maps::mask(index) else { return 0 };
        // A shorter prefix may cover the address, too, if this one is none.
        if let Some(route) = maps::route(Prefix::masked(address, mask))
            && (u32::from(route.flags) & if_kept == 0 || maps::are_kept())
        {
            return route.word();
        }
        if mask == Ipv4Be(0) {
            return 0;
        }
    }
    0
}
