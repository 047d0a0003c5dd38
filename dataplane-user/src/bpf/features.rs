//! What this kernel's helpers can do, by asking it, not by its version.

use std::sync::OnceLock;

use dataplane_common::ipv4::OUTER_LENGTH;

use super::sys;

/// Of `bpf_skb_adjust_room` (`linux/bpf.h`), those with which our programs take an outer header off.
const ADJ_ROOM_FIXED_GSO: u32 = 1 << 0;
const ADJ_ROOM_NO_CSUM_RESET: u32 = 1 << 5;
/// Since 7.3: the packet is no IPIP packet any more, for GSO and for NICs.
const ADJ_ROOM_DECAP_IPXIP4: u32 = 1 << 11;

/// Returns the flags beside the usual ones with which an outer header comes off and leaves nothing
/// of the tunnel in the packet; 0 where the kernel has none.
#[must_use]
pub fn unwrap_flags() -> u32 {
    static FLAGS: OnceLock<u32> = OnceLock::new();
    *FLAGS.get_or_init(|| {
        let flags = ADJ_ROOM_FIXED_GSO | ADJ_ROOM_NO_CSUM_RESET | ADJ_ROOM_DECAP_IPXIP4;
        if takes_off(flags) { ADJ_ROOM_DECAP_IPXIP4 } else { 0 }
    })
}

/// Takes an outer header off a packet that is thrown away, with these flags.
fn takes_off(flags: u32) -> bool {
    let headers = OUTER_LENGTH as i32;
    sys::adjusts_room(-headers, flags).unwrap_or_else(|error| {
        tracing::debug!("cannot ask what bpf_skb_adjust_room does: {error}");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The question is a good one: with flags that every kernel has the answer is yes, with one
    /// that none has it is no.
    #[test]
    fn the_kernel_answers() {
        // Without the right to load programs there is no answer.
        if sys::adjusts_room(-20, ADJ_ROOM_FIXED_GSO).is_err() {
            return;
        }
        assert!(takes_off(ADJ_ROOM_FIXED_GSO | ADJ_ROOM_NO_CSUM_RESET));
        assert!(!takes_off(ADJ_ROOM_FIXED_GSO | 1 << 30));
        assert!([0, ADJ_ROOM_DECAP_IPXIP4].contains(&unwrap_flags()));
    }
}
