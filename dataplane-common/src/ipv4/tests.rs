//! Our header against etherparse, which shares no code with it.

use core::net::Ipv4Addr;
use std::vec::Vec;

use etherparse::{IpEcn, IpNumber, Ipv4HeaderSlice};
use proptest::prelude::*;

use super::*;

/// A valid header with everything but the version drawn at random.
fn any_header() -> impl Strategy<Value = etherparse::Ipv4Header> {
    (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<u8>(),
        any::<u8>(),
        0u16..1480,
        any::<u16>(),
        any::<bool>(),
    )
        .prop_map(|(source, destination, ttl, protocol, payload, id, df)| {
            let mut header =
                etherparse::Ipv4Header::new(payload, ttl, IpNumber(protocol), source, destination)
                    .unwrap();
            header.identification = id;
            header.dont_fragment = df;
            header.header_checksum = header.calc_header_checksum();
            header
        })
}

fn ours(bytes: &[u8]) -> Ipv4Header {
    let wide = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let last = u32::from_ne_bytes(bytes[16..20].try_into().unwrap());
    Ipv4Header::from_words(wide(0), wide(8), last)
}

fn bytes(header: &Ipv4Header) -> Vec<u8> {
    let (first, second, last) = header.words();
    [&first.to_ne_bytes()[..], &second.to_ne_bytes(), &last.to_ne_bytes()].concat()
}

/// The header's 20 bytes as etherparse writes them.
fn wire(header: &etherparse::Ipv4Header) -> Vec<u8> {
    header.to_bytes().to_vec()
}

proptest! {
    #[test]
    fn outer_is_what_etherparse_builds(
        tos: u8, ttl in 1u8.., length in 20u32..=65515, source: [u8; 4], destination: [u8; 4],
    ) {
        let outer = Ipv4Header::outer(tos, ttl, length, Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into());
        let mut expected =
            etherparse::Ipv4Header::new(length as u16, ttl, IpNumber::IPV4, source, destination).unwrap();
        expected.dont_fragment = true;
        expected.ecn = IpEcn::try_new(tos % 4).unwrap();
        expected.header_checksum = expected.calc_header_checksum();
        prop_assert_eq!(&bytes(&outer)[..], &wire(&expected)[..]);
    }

    #[test]
    fn fields_read_as_etherparse_reads_them(header in any_header()) {
        let wire = wire(&header);
        let theirs = Ipv4HeaderSlice::from_slice(&wire).unwrap();
        let ours = ours(&wire);
        prop_assert_eq!(ours.version(), theirs.version());
        prop_assert_eq!(ours.header_length(), u32::from(theirs.ihl()) * 4);
        prop_assert_eq!(ours.total_length(), u32::from(theirs.total_len()));
        prop_assert_eq!(ours.is_fragment(), theirs.is_fragmenting_payload());
        prop_assert!(ours.checksum_is_right());
        prop_assert!(!ours.has_options());
        prop_assert_eq!(Ipv4Addr::from(ours.source()), theirs.source_addr());
        prop_assert_eq!(Ipv4Addr::from(ours.destination()), theirs.destination_addr());
    }

    #[test]
    fn ttl_loses_one_and_the_checksum_stays_right(mut header in any_header(), ttl in 2u8..) {
        header.time_to_live = ttl;
        header.header_checksum = header.calc_header_checksum();
        let mut hopped = wire(&header);
        let at = Ipv4Header::TTL_TO_CHECKSUM;
        let word = u32::from_ne_bytes(hopped[at..at + 4].try_into().unwrap());
        hopped[at..at + 4].copy_from_slice(&one_hop_less(word).to_ne_bytes());
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        prop_assert_eq!(hopped, wire(&header));
    }

    /// A checksum that is wrong stays wrong by as much, and 0 is 0xffff's other name.
    #[test]
    fn a_hop_is_a_changed_word(ttl in 2u8.., protocol: u8, checksum: u16) {
        let word = |ttl: u8| u16::from_ne_bytes([ttl, protocol]);
        let whole = |ttl: u8, checksum: u16| {
            let ([a, b], [c, d]) = (word(ttl).to_ne_bytes(), checksum.to_ne_bytes());
            u32::from_ne_bytes([a, b, c, d])
        };
        let updated = checksum::update(checksum, word(ttl), word(ttl - 1));
        prop_assert_eq!(one_hop_less(whole(ttl, checksum)), whole(ttl - 1, updated));
    }

    #[test]
    fn tos_changes_and_the_checksum_stays_right(header in any_header(), tos: u8) {
        let mut marked = ours(&wire(&header));
        marked.set_tos(tos);
        prop_assert_eq!(marked.tos(), tos);
        prop_assert!(marked.checksum_is_right());
    }

    /// One wrong bit anywhere is seen.
    #[test]
    fn a_flipped_bit_breaks_the_checksum(header in any_header(), bit in 0usize..160) {
        let mut wire = wire(&header);
        wire[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!ours(&wire).checksum_is_right());
    }

    #[test]
    fn fragments_are_told(header in any_header(), offset in 0u16..0x2000, more: bool) {
        let mut header = header;
        header.more_fragments = more;
        header.fragment_offset = etherparse::IpFragOffset::try_new(offset).unwrap();
        header.header_checksum = header.calc_header_checksum();
        prop_assert_eq!(ours(&wire(&header)).is_fragment(), more || offset != 0);
    }

    /// No bytes whatever make a check panic, and what passes is sane.
    #[test]
    fn checks_stand_any_bytes(raw: [u8; 20], available in prop::option::of(0u32..2000)) {
        let header = ours(&raw);
        let room = available.map_or(Room::UNKNOWN, Room::bytes);
        if check_outer(&header, room).is_ok() {
            prop_assert_eq!(raw[0], 0x45);
            prop_assert!(available.is_none_or(|available| header.total_length() <= available));
        }
        if check_inner(&header, room).is_ok() {
            prop_assert!(raw[0] >> 4 == 4 && raw[0] & 0xf >= 5);
            prop_assert!(raw[9] != 4 && raw[9] != 41);
        }
    }
}

/// A header that passes both checks, for cases to break one thing of.
fn sane() -> etherparse::Ipv4Header {
    let mut header =
        etherparse::Ipv4Header::new(80, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    header
}

fn with_checksum(mut raw: Vec<u8>) -> Ipv4Header {
    let header = ours(&raw);
    let checksum = u64::from(u32::from_ne_bytes([0, 0, raw[10], raw[11]]));
    let checksum = !checksum::fold_wide(header.sum() - checksum);
    raw[10..12].copy_from_slice(&checksum.to_ne_bytes());
    ours(&raw)
}

#[test]
fn each_fault_has_its_reason() {
    let good = wire(&sane());
    let broken = |at: usize, value: u8| {
        let mut raw = good.clone();
        raw[at] = value;
        with_checksum(raw)
    };
    let room = Room::bytes(100);
    assert_eq!(check_outer(&ours(&good), room), Ok(()));
    assert_eq!(check_inner(&ours(&good), room), Ok(()));
    for version in (0..16).filter(|version| *version != 4) {
        assert_eq!(
            check_outer(&broken(0, version << 4 | 5), room),
            Err(Reason::DecapOuterBadHeader)
        );
        assert_eq!(
            check_inner(&broken(0, version << 4 | 5), room),
            Err(Reason::DecapInnerBadHeader)
        );
    }
    for ihl in 0..5 {
        assert_eq!(check_outer(&broken(0, 0x40 | ihl), room), Err(Reason::DecapOuterBadHeader));
        assert_eq!(check_inner(&broken(0, 0x40 | ihl), room), Err(Reason::DecapInnerBadHeader));
    }
    for ihl in 6..16 {
        assert_eq!(check_outer(&broken(0, 0x40 | ihl), room), Err(Reason::DecapOuterOptions));
        assert_eq!(check_inner(&broken(0, 0x40 | ihl), room), Ok(()));
    }
    let mut wrong_sum = good.clone();
    wrong_sum[10] ^= 1;
    assert_eq!(check_outer(&ours(&wrong_sum), room), Err(Reason::DecapOuterBadChecksum));
    assert_eq!(check_inner(&ours(&wrong_sum), room), Err(Reason::DecapInnerBadChecksum));
    for (at, value) in [(6, 0x20), (6, 0x01), (7, 0x01)] {
        assert_eq!(check_outer(&broken(at, value), room), Err(Reason::DecapOuterFragment));
        assert_eq!(check_inner(&broken(at, value), room), Ok(()));
    }
    assert_eq!(check_outer(&ours(&good), Room::bytes(99)), Err(Reason::DecapOuterBadLength));
    assert_eq!(check_inner(&ours(&good), Room::bytes(99)), Err(Reason::DecapInnerBadLength));
    assert_eq!(check_outer(&broken(3, 19), room), Err(Reason::DecapOuterBadLength));
    assert_eq!(check_inner(&broken(3, 19), room), Err(Reason::DecapInnerBadLength));
    assert_eq!(check_outer(&ours(&good), Room::UNKNOWN), Ok(()));
    assert_eq!(check_inner(&ours(&good), Room::UNKNOWN), Ok(()));
    for protocol in [4, 41] {
        assert_eq!(check_inner(&broken(9, protocol), room), Err(Reason::DecapNestedTunnel));
    }
}
