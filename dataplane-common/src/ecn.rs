//! Explicit Congestion Notification across the tunnel: RFC 6040.
//!
//! ECN is the low two bits of the TOS byte.

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, code point 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, code point 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

const MASK: u8 = 0b11;

/// The outer TOS byte for an inner one: DSCP 0 as tunl0 sends it, ECN copied
/// whole, CE included (RFC 6040 §4.1, normal mode).
#[inline(always)]
#[must_use]
pub const fn encap(inner_tos: u8) -> u8 {
    inner_tos & MASK
}

/// The inner TOS byte after decapsulation, or `None` where the packet must be
/// dropped (RFC 6040 §4.2, figure 4).
///
/// The more severe mark wins (CE > ECT(1) > ECT(0)), an inner packet that is
/// not ECN-capable stays so, and one that met congestion without being
/// ECN-capable has to go: its sender can learn of the congestion no other way.
#[inline(always)]
#[must_use]
pub const fn decap(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    let outer = outer_tos & MASK;
    let inner = inner_tos & MASK;
    let ecn = match (inner, outer) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        _ => inner,
    };
    Some((inner_tos & !MASK) | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 figure 4, row by row: inner, then outer Not-ECT, ECT(0), ECT(1), CE.
    const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];

    #[test]
    fn decap_is_figure_4() {
        for (inner, row) in FIGURE_4 {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for dscp in [0, 0b1011_1000] {
                    // The outer DSCP is discarded, the inner one kept.
                    let tos = decap(outer | 0b0100_0100, inner | dscp);
                    assert_eq!(tos, expected.map(|ecn| ecn | dscp), "inner {inner} outer {outer}");
                }
            }
        }
    }

    #[test]
    fn encap_copies_ecn_and_nothing_else() {
        for tos in 0..=u8::MAX {
            assert_eq!(encap(tos), tos % 4);
        }
    }
}
