//! Does a packet fit the path once the outer header is on it?

use crate::{Mtu, ipv4};

/// What a packet occupies on the wire.
///
/// For a GSO packet the kernel cuts later, and every *segment* has to fit, not
/// the whole (64 KiB) packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// One packet of this many bytes, IP header included.
    Single(u32),
    /// Segments of `payload` bytes, each behind `headers` bytes (IP and transport).
    Segmented {
        /// IP header plus transport header, bytes.
        headers: u32,
        /// `gso_size`: payload of one segment, bytes.
        payload: u32,
    },
}

impl Size {
    /// Whether it fits `mtu` together with the outer header.
    #[inline(always)]
    #[must_use]
    pub const fn fits(self, mtu: Mtu) -> bool {
        let inner = match self {
            Self::Single(length) => length,
            Self::Segmented { headers, payload } => headers + payload,
        };
        inner + ipv4::OUTER_LENGTH as u32 <= mtu.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_header_counts() {
        assert!(Size::Single(1480).fits(Mtu(1500)));
        assert!(!Size::Single(1481).fits(Mtu(1500)));
    }

    #[test]
    fn gso_is_judged_per_segment() {
        let size = |payload| Size::Segmented { headers: 52, payload };
        assert!(size(1428).fits(Mtu(1500)));
        assert!(!size(1429).fits(Mtu(1500)));
    }
}
