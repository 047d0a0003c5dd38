//! The Internet checksum: RFC 1071 in full, RFC 1624 for a changed word.
//!
//! One's complement addition does not mind byte order as long as every word is
//! read the same way (RFC 1071 §2 (B)), so everything here works on words *as
//! they lie in memory* and never swaps a byte.

/// Adds the carries back in until sixteen bits are left.
///
/// Twice is enough for any sum of fewer than 2^16 words.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// As [`fold`], of a sum of no more than eight words of four bytes: the same number in the end, for fewer
/// additions.
#[inline(always)]
#[must_use]
pub const fn fold_wide(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field after one 16-bit word of the header changed
/// (RFC 1624 §3, equation 3: `HC' = ~(~HC + ~m + m')`).
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

/// The checksum field after an address of the header changed: both its words, as in [`update`].
#[inline(always)]
#[must_use]
pub const fn update_address(checksum: u16, old: u32, new: u32) -> u16 {
    let (old, new) = (!old, new);
    !fold(!checksum as u32 + (old & 0xffff) + (old >> 16) + (new & 0xffff) + (new >> 16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().map(|word| u32::from(*word)).sum())
    }

    proptest! {
        /// An updated checksum verifies like a freshly computed one.
        #[test]
        fn update_keeps_a_header_valid(words in prop::array::uniform9(any::<u16>()), at in 0usize..9, new: u16) {
            let checksum = full(&words);
            let mut changed = words;
            changed[at] = new;
            let updated = update(checksum, words[at], new);
            let sum: u32 = changed.iter().map(|word| u32::from(*word)).sum::<u32>() + u32::from(updated);
            // A header of all zeros has two checksums (RFC 1624 §2); a packet never is one.
            if changed.iter().any(|word| *word != 0) {
                prop_assert_eq!(fold(sum), 0xffff);
            }
        }
    }

    proptest! {
        /// Both words of an address at once, or one after the other.
        #[test]
        fn an_address_is_two_words(checksum: u16, old: u32, new: u32) {
            let half = |address: u32| (address as u16, (address >> 16) as u16);
            let ((a, b), (c, d)) = (half(old), half(new));
            let stepwise = update(update(checksum, a, c), b, d);
            prop_assert_eq!(update_address(checksum, old, new), stepwise);
        }
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624 §4: checksum 0xDD2F, a word goes from 0x5555 to 0x3285.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
