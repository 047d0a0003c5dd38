use super::{super::scope::tests::*, *};

const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 1);
/// What an inner packet carries: 8 bytes that are quoted by everybody, and more.
const DATA: [u8; 40] = *b"PORTSLEN0123456789012345678901234567890.";

/// An IPv4 packet: the header, its fields, the payload.
#[derive(Clone)]
struct Packet {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    offset: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Packet {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self { source, destination, protocol, offset: 0, options: vec![], payload }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = etherparse::Ipv4Header {
            time_to_live: 63,
            // As all that we send with an outer header.
            dont_fragment: self.protocol == PROTOCOL_IPIP,
            protocol: IpNumber(self.protocol),
            fragment_offset: self.offset.try_into().expect("13 bits"),
            source: self.source.octets(),
            destination: self.destination.octets(),
            options: self.options.as_slice().try_into().expect("whole words"),
            ..Default::default()
        };
        header.set_payload_len(self.payload.len()).expect("it fits");
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().as_slice(), &self.payload].concat()
    }
}

/// UDP from our pod to a remote one.
fn inner() -> Packet {
    Packet::new(POD, REMOTE, 17, &DATA)
}

/// As we send it.
fn outer(inner: &Packet) -> Packet {
    Packet::new(NODE, PEER, PROTOCOL_IPIP, &inner.bytes())
}

/// An ICMP message by `from` that quotes these bytes.
fn error(from: Ipv4Addr, kind: u8, code: u8, word: [u8; 4], quoted: &[u8]) -> Packet {
    let mut message = [&[kind, code, 0, 0][..], &word, quoted].concat();
    let checksum = Sum16BitWords::new().add_slice(&message).ones_complement().to_be();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Packet::new(from, NODE, 1, &message)
}

/// What comes of a host unreachable by the router that quotes these bytes.
fn judge_quote(quoted: &[u8]) -> Result<Consequence, Ignored> {
    judge(&error(ROUTER, 3, 1, [0; 4], quoted).bytes(), &scope())
}

/// What comes of a host unreachable about this inner packet, as sent to `PEER`.
fn judge_inner(inner: &Packet) -> Result<Consequence, Ignored> {
    judge_quote(&outer(inner).bytes())
}

/// The message with type 3 and this code, about these bytes.
fn told(to: Ipv4Addr, code: u8, quoted: &[u8]) -> Result<Consequence, Ignored> {
    let message = error(NODE, 3, code, [0; 4], quoted).payload;
    Ok(Consequence::Tell { node: PEER, to, message })
}

#[test]
fn who_reports_what_is_read() {
    for (kind, code, what) in [
        (3, 0, "network unreachable"),
        (3, 1, "host unreachable"),
        (3, 2, "protocol 4 refused"),
        (11, 0, "TTL exceeded"),
    ] {
        let packet = error(ROUTER, kind, code, [0; 4], &outer(&inner()).bytes());
        assert_eq!(reported(&packet.bytes()), Some((ROUTER, what)));
    }
    assert_eq!(reported(&[0x45]), None);
}

/// RFC 2003 §4, line by line, and what the RFC could not know.
#[test]
fn every_error_becomes_what_the_rfc_says() {
    let ask = || Ok(Consequence::AskAgain { node: PEER, mtu: Mtu(0) });
    let nothing = || Err(Ignored::NotForSenders);
    let far = inner();
    // The sender may think it on this host's own network.
    let near = Packet { destination: NEIGHBOUR, ..inner() };
    let unreachable = |code, inner: &Packet| told(POD, code, &inner.bytes());
    // (type, code, for a far destination, for one that seems near)
    let rows = [
        // §4.1
        (3, 0, unreachable(0, &far), unreachable(1, &near)),
        (3, 1, unreachable(1, &far), unreachable(1, &near)),
        (3, 2, unreachable(0, &far), unreachable(1, &near)),
        (3, 3, nothing(), nothing()),
        (3, 4, ask(), ask()),
        (3, 5, nothing(), nothing()),
        // §4.2 to §4.5
        (4, 0, nothing(), nothing()),
        (5, 0, nothing(), nothing()),
        (5, 1, nothing(), nothing()),
        (5, 2, nothing(), nothing()),
        (5, 3, nothing(), nothing()),
        (11, 0, unreachable(1, &far), unreachable(1, &near)),
        (11, 1, nothing(), nothing()),
        (12, 0, nothing(), nothing()),
        (12, 1, nothing(), nothing()),
        (12, 2, nothing(), nothing()),
        // §4.6: no errors
        (0, 0, nothing(), nothing()),
        (8, 0, nothing(), nothing()),
        (15, 0, nothing(), nothing()),
    ];
    // RFC 1122 and RFC 1812: unknown, isolated, prohibited, by type of service.
    let later = (6..=16).map(|code| (3, code, nothing(), nothing()));
    for (kind, code, for_far, for_near) in rows.into_iter().chain(later) {
        for (inner, expected) in [(&far, for_far), (&near, for_near)] {
            let packet = error(ROUTER, kind, code, [0; 4], &outer(inner).bytes()).bytes();
            assert_eq!(judge(&packet, &scope()), expected, "{kind}/{code}");
        }
    }
}

#[test]
fn pods_and_the_node_itself_are_told() {
    for source in [POD, BORROWED, TUNNEL, NODE] {
        let inner = Packet { source, ..inner() };
        assert_eq!(judge_inner(&inner), told(source, 1, &inner.bytes()));
    }
}

/// Anybody may say it: a router, the other node, our own kernel.
#[test]
fn the_word_of_the_underlay_counts_a_pods_does_not() {
    let inner = inner();
    for (from, expected) in [
        (ROUTER, told(POD, 1, &inner.bytes())),
        (PEER, told(POD, 1, &inner.bytes())),
        (NODE, told(POD, 1, &inner.bytes())),
        (EXTRA, told(POD, 1, &inner.bytes())),
        (POD, Err(Ignored::FromInside)),
        (BORROWED, Err(Ignored::FromInside)),
        (REMOTE, Err(Ignored::FromInside)),
        (TUNNEL, Err(Ignored::FromInside)),
    ] {
        for (kind, code) in [(3, 1), (11, 0)] {
            let packet = error(from, kind, code, [0; 4], &outer(&inner).bytes());
            assert_eq!(judge(&packet.bytes(), &scope()), expected, "{from}");
        }
    }
}

#[test]
fn only_our_own_outer_packets_count() {
    let good = outer(&inner());
    let strange = Ipv4Addr::new(172, 16, 34, 66);
    for (what, outer) in [
        ("somebody else's", Packet { source: strange, ..good.clone() }),
        ("to nobody we know", Packet { destination: strange, ..good.clone() }),
        ("back to front", Packet { source: PEER, destination: NODE, ..good.clone() }),
        ("a plain packet", Packet { protocol: 17, ..good.clone() }),
        ("IPv6 in IPv4", Packet { protocol: 41, ..good.clone() }),
        ("with options", Packet { options: vec![1; 4], ..good.clone() }),
        ("a later fragment", Packet { offset: 3, ..good.clone() }),
    ] {
        for (kind, code) in [(3, 1), (3, 4), (11, 0)] {
            let packet = error(ROUTER, kind, code, [0; 4], &outer.bytes()).bytes();
            assert_eq!(judge(&packet, &scope()), Err(Ignored::NotOuter), "{what}");
        }
    }
    // Sent to another of our addresses than the packet came from.
    let astray = Packet { destination: TUNNEL, ..error(ROUTER, 3, 1, [0; 4], &good.bytes()) };
    assert_eq!(judge(&astray.bytes(), &scope()), Err(Ignored::NotOuter));
    // Before the first round.
    let packet = error(ROUTER, 3, 1, [0; 4], &good.bytes()).bytes();
    assert_eq!(judge(&packet, &Scope::default()), Err(Ignored::NotOuter));
}

#[test]
fn only_what_we_would_have_sent_there_counts() {
    let stranger = Ipv4Addr::new(10, 20, 105, 216);
    for (what, inner, why) in [
        ("no pod of ours", Packet { source: stranger, ..inner() }, Ignored::NotOurs),
        ("a remote pod's", Packet { source: REMOTE, ..inner() }, Ignored::NotOurs),
        ("the peer's own", Packet { source: PEER, ..inner() }, Ignored::NotOurs),
        ("an extra source's", Packet { source: EXTRA, ..inner() }, Ignored::NotOurs),
        ("all the world's", Packet { source: Ipv4Addr::UNSPECIFIED, ..inner() }, Ignored::NotOurs),
        (
            "to the other peer's pod",
            Packet { destination: Ipv4Addr::new(10, 20, 7, 70), ..inner() },
            Ignored::NotRoutedThere,
        ),
        ("to nowhere", Packet { destination: stranger, ..inner() }, Ignored::NotRoutedThere),
        ("to a local pod", Packet { destination: BORROWED, ..inner() }, Ignored::NotRoutedThere),
        ("to an extra source", Packet { destination: EXTRA, ..inner() }, Ignored::NotRoutedThere),
    ] {
        assert_eq!(judge_inner(&inner), Err(why), "{what}");
    }
}

/// RFC 1122 §3.2.2.
#[test]
fn no_error_about_errors_later_fragments_or_packets_to_many() {
    let icmp =
        |kind: u8| Packet { protocol: 1, payload: [&[kind], &DATA[1..]].concat(), ..inner() };
    for kind in 0..=255 {
        let inner = icmp(kind);
        let expected = match kind {
            0 | 8 | 9 | 10 | 13..=18 => told(POD, 1, &inner.bytes()),
            _ => Err(Ignored::NoErrorAllowed),
        };
        assert_eq!(judge_inner(&inner), expected, "ICMP type {kind}");
    }
    let later = Packet { offset: 1, ..inner() };
    assert_eq!(judge_inner(&later), Err(Ignored::NoErrorAllowed));
    // Even if somebody configures a route for them.
    let many = [Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST];
    let scope = scope().with_routes(&many, PEER);
    for destination in many {
        let outer = outer(&Packet { destination, ..inner() });
        let packet = error(ROUTER, 3, 1, [0; 4], &outer.bytes()).bytes();
        assert_eq!(judge(&packet, &scope), Err(Ignored::NoErrorAllowed), "{destination}");
    }
}

#[test]
fn what_is_quoted_is_enough_or_nothing() {
    let inner = inner();
    let outer = outer(&inner).bytes();
    // As RFC 792 has it: the header and 8 bytes. Then ever more.
    for length in 0..=outer.len() {
        let expected = match length {
            0..20 => Err(Ignored::Malformed),
            20..48 => Err(Ignored::TooShort),
            _ => told(POD, 1, &outer[20..length]),
        };
        assert_eq!(judge_quote(&outer[..length]), expected, "{length} bytes");
    }
    // For the path MTU the outer header is enough.
    let short = error(ROUTER, 3, 4, [0; 4], &outer[..28]).bytes();
    let ask = Consequence::AskAgain { node: PEER, mtu: Mtu(0) };
    assert_eq!(judge(&short, &scope()), Ok(ask));
    // Padding behind the packet is not part of it.
    let padded = [outer.as_slice(), &[0; 60]].concat();
    assert_eq!(judge_quote(&padded), told(POD, 1, &inner.bytes()));
    // With options there is more header before the 8 bytes.
    let optional = Packet { options: vec![1; 8], ..inner.clone() };
    let outer = self::outer(&optional).bytes();
    assert_eq!(judge_quote(&outer[..20 + 35]), Err(Ignored::TooShort));
    assert_eq!(judge_quote(&outer[..20 + 36]), told(POD, 1, &optional.bytes()[..36]));
    // RFC 1812: 576 bytes in all.
    let long = Packet { payload: vec![7; 1400], ..inner };
    assert_eq!(judge_inner(&long), told(POD, 1, &long.bytes()[..576 - 28]));
}

/// RFC 4884: MPLS routers append their labels.
#[test]
fn extensions_are_no_part_of_the_packet() {
    let inner = Packet { payload: vec![7; 200], ..inner() };
    let outer = outer(&inner).bytes();
    let quoted = [&outer[..128], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0x11, 0x40]].concat();
    let packet = error(ROUTER, 11, 0, [0, 128 / 4, 0, 0], &quoted).bytes();
    assert_eq!(judge(&packet, &scope()), told(POD, 1, &outer[20..128]));
    // One that says more than there is.
    let packet = error(ROUTER, 11, 0, [0, 255, 0, 0], &outer[..128]).bytes();
    assert_eq!(judge(&packet, &scope()), told(POD, 1, &outer[20..128]));
}

#[test]
fn what_makes_no_sense_is_ignored() {
    let good = error(ROUTER, 3, 1, [0; 4], &outer(&inner()).bytes()).bytes();
    assert!(judge(&good, &scope()).is_ok());
    for length in 0..good.len() {
        assert!(judge(&good[..length], &scope()).is_err(), "{length} bytes of {}", good.len());
    }
    // A bit of ICMP that is not as it was: the checksum tells.
    for at in 20..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(judge(&bad, &scope()), Err(Ignored::Malformed), "byte {at}");
    }
    // One of the inner header, quoted so: its own checksum tells.
    let outer = outer(&inner()).bytes();
    for at in 20..40 {
        let mut bad = outer.clone();
        bad[at] ^= 0x08;
        assert!(judge_quote(&bad).is_err(), "byte {}", at - 20);
    }
}

/// A path MTU is believed for packets that we may have sent, and that were too big.
#[test]
fn a_packet_of_ours_was_too_big() {
    let too_big = |mtu: u16, quoted: &[u8]| {
        let [high, low] = mtu.to_be_bytes();
        judge(&error(ROUTER, 3, 4, [0, 0, high, low], quoted).bytes(), &scope())
    };
    let ask = |mtu| Ok(Consequence::AskAgain { node: PEER, mtu: Mtu(mtu) });
    let sent = outer(&inner()).bytes();
    let length = u16::try_from(sent.len()).expect("it is short");
    assert_eq!(too_big(length - 1, &sent), ask(u32::from(length) - 1));
    assert_eq!(too_big(length, &sent), Err(Ignored::NotTooBig));
    // RFC 792 leaves 8 bytes, RFC 1191 §5 no number.
    for (quoted, expected) in [(28, ask(0)), (39, ask(0)), (40, ask(0)), (20, ask(0))] {
        assert_eq!(too_big(0, &sent[..quoted]), expected, "{quoted} bytes");
    }
    let of = |inner: Packet| too_big(60, &outer(&inner).bytes());
    for source in [POD, TUNNEL, NODE, BORROWED, EXTRA, ROUTER] {
        assert_eq!(of(Packet { source, ..inner() }), ask(60), "{source}");
    }
    assert_eq!(of(Packet { source: REMOTE, ..inner() }), Err(Ignored::NotOurs));
    for destination in [POD, NODE, ROUTER, EXTRA] {
        let inner = Packet { destination, ..inner() };
        assert_eq!(of(inner), Err(Ignored::NotRoutedThere), "{destination}");
    }
    // Longer than what its outer packet carried.
    let mut other = sent.clone();
    let inner_length = u16::from_be_bytes([sent[22], sent[23]]) + 1;
    other[22..24].copy_from_slice(&inner_length.to_be_bytes());
    assert_eq!(too_big(60, &other), Err(Ignored::NotOuter));
    // What may be fragmented is.
    let mut may_be_cut = sent;
    may_be_cut[6] = 0;
    assert_eq!(too_big(60, &may_be_cut), Err(Ignored::NotTooBig));
}
