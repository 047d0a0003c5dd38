//! What arrives from the wire.

use tunless_lab::packet::Ipv4;

use super::{
    bytes,
    difference::Difference,
    probe::{NODE, PEER, Probe, Probes, THIRD, THIRD_POD, Way, cut_payload, inner_probes, pattern},
};

const WAY: Way = Way::Decap;
/// An address that is no node's.
const STRANGER: [u8; 4] = [172, 16, 77, 7];

/// Everything, numbered from `first` on.
pub fn probes(first: u16) -> Vec<Probe> {
    let mut probes = Probes::new(WAY, first);
    inner_probes(WAY, &mut probes, &|inner| outer().packet(&inner));
    congestion(&mut probes);
    outer_headers(&mut probes);
    inner_lies(&mut probes);
    inner_addresses(&mut probes);
    tunnels(&mut probes);
    probes.finish()
}

/// As the node at the other end writes it.
pub fn outer() -> Ipv4 {
    Ipv4 { ttl: 62, ..Ipv4::ipip(PEER, NODE) }
}

fn ip(tag: u16) -> Ipv4 {
    Ipv4 { id: tag, df: true, ..WAY.inner(17) }
}

fn plain(tag: u16) -> Vec<u8> {
    WAY.datagram(&ip(tag), 100)
}

/// RFC 6040 figure 4, with and without DSCP.
fn congestion(probes: &mut Probes) {
    for pair in 0..16 {
        let (inner, outside) = (pair >> 2, pair & 3);
        for (inner_dscp, outer_dscp) in [(0, 0), (0xb8, 0x28)] {
            let what = format!("ecn {inner} in {outside}, dscp {inner_dscp} in {outer_dscp}");
            probes.add(what, |tag| {
                let inner = WAY.datagram(&Ipv4 { tos: inner | inner_dscp, ..ip(tag) }, 100);
                Ipv4 { tos: outside | outer_dscp, ..outer() }.packet(&inner)
            });
        }
    }
    for dscp in 0..64 {
        probes.add(format!("outer dscp {dscp}"), |tag| {
            Ipv4 { tos: dscp << 2, ..outer() }.packet(&plain(tag))
        });
    }
}

fn outer_headers(probes: &mut Probes) {
    for ttl in [0, 1, 2, 255] {
        probes.add(format!("outer ttl {ttl}"), |tag| Ipv4 { ttl, ..outer() }.packet(&plain(tag)));
    }
    for (df, id) in [(false, 0), (false, 7), (true, 0), (true, 7)] {
        probes.add(format!("outer df {df}, id {id}"), |tag| {
            Ipv4 { df, id, ..outer() }.packet(&plain(tag))
        });
    }
    probes.add("outer evil bit", |tag| {
        let mut packet = outer().packet(&plain(tag));
        bytes::set_fragment(&mut packet, bytes::EVIL);
        bytes::mend_checksum(&mut packet);
        packet
    });
    probes.add("padding behind the outer packet", |tag| {
        let mut packet = outer().packet(&plain(tag));
        packet.extend(pattern(30));
        packet
    });
    probes.add("a frame that had to be padded", |tag| {
        let mut packet = outer().packet(&WAY.datagram(&ip(tag), 20));
        packet.resize(46, 0);
        packet
    });
    let wrong = |header: Ipv4| move |tag| header.packet(&plain(tag));
    let left = [
        ("outer checksum wrong", Ipv4 { checksum: Some(0x1234), ..outer() }),
        ("outer version 5", Ipv4 { version: Some(5), ..outer() }),
        ("outer version 6", Ipv4 { version: Some(6), ..outer() }),
        ("outer header length 4", Ipv4 { ihl: Some(4), ..outer() }),
        ("outer header length 6", Ipv4 { ihl: Some(6), ..outer() }),
        ("outer header length 15", Ipv4 { ihl: Some(15), ..outer() }),
        ("outer says too much", Ipv4 { total_len: Some(121), ..outer() }),
        ("outer says far too much", Ipv4 { total_len: Some(65535), ..outer() }),
        ("outer says less than a header", Ipv4 { total_len: Some(19), ..outer() }),
        ("outer says nothing inside", Ipv4 { total_len: Some(20), ..outer() }),
        ("outer says half a header inside", Ipv4 { total_len: Some(30), ..outer() }),
        ("outer says too little", Ipv4 { total_len: Some(119), ..outer() }),
        ("outer says a header alone", Ipv4 { total_len: Some(40), ..outer() }),
        ("to another host", Ipv4 { destination: [172, 16, 36, 99].into(), ..outer() }),
    ];
    for (what, header) in left {
        probes.add(what, wrong(header)).left();
    }
    let options =
        [("outer nop", vec![1; 4]), ("outer record route, full", vec![1, 7, 7, 8, 9, 9, 9, 9])];
    for (what, options) in options {
        let header = Ipv4 { options, ..outer() };
        probes.add(what, wrong(header)).left().lost(Difference::OuterOptions);
    }
    let header = Ipv4 { source: STRANGER.into(), ..outer() };
    probes.add("from no node", wrong(header)).left().lost(Difference::UnknownNode);
    for (what, reversed) in [("in order", false), ("the last first", true)] {
        let pieces = |tag: u16| {
            let header = Ipv4 { df: false, id: tag, ..outer() };
            let mut pieces = cut_payload(&header, &WAY.datagram(&ip(tag), 1200), 640);
            if reversed {
                pieces.reverse();
            }
            pieces
        };
        probes
            .add_many(format!("outer fragments, {what}"), pieces)
            .left()
            .lost(Difference::OuterFragment);
    }
    let alone = |tag: u16| {
        let header = Ipv4 { df: false, id: tag, ..outer() };
        cut_payload(&header, &WAY.datagram(&ip(tag), 1200), 640).swap_remove(0)
    };
    probes.add("an outer fragment alone", alone).left();
    let pieces_of = |tag: u16, inner: &Ipv4, length, piece| {
        let header = Ipv4 { df: false, id: tag, ..outer() };
        cut_payload(&header, &WAY.datagram(inner, length), piece)
    };
    let forged = |tag| Ipv4 { source: THIRD_POD, ..ip(tag) };
    probes
        .add_many("outer fragments, the source inside forged", |tag| {
            pieces_of(tag, &forged(tag), 1200, 640)
        })
        .left()
        .lost(Difference::ForgedSource);
    for piece in [8, 16] {
        probes
            .add_many(format!("outer fragments of {piece} bytes"), |tag| {
                pieces_of(tag, &ip(tag), 100, piece)
            })
            .left()
            .lost(Difference::ShortFragment);
    }
}

fn inner_lies(probes: &mut Probes) {
    let wrap = |inner: Vec<u8>| outer().packet(&inner);
    probes
        .add("inner ttl 0", |tag| wrap(WAY.datagram(&Ipv4 { ttl: 0, ..ip(tag) }, 100)))
        .lost(Difference::InnerTtlZero);
    let mut left = |what: String, header: &dyn Fn(u16) -> Ipv4| {
        probes.add(what, |tag| wrap(WAY.datagram(&header(tag), 100))).left();
    };
    left("inner checksum wrong".to_owned(), &|tag| Ipv4 { checksum: Some(0x1234), ..ip(tag) });
    for version in [0, 3, 5, 6, 15] {
        let header = |tag| Ipv4 { version: Some(version), ..ip(tag) };
        left(format!("inner version {version}"), &header);
    }
    for ihl in (0..5).chain([6, 15]) {
        let header = |tag| Ipv4 { ihl: Some(ihl), ..ip(tag) };
        left(format!("inner header length {ihl}"), &header);
    }
    for length in [0, 19, 101, 1480, 65535] {
        let header = |tag| Ipv4 { total_len: Some(length), ..ip(tag) };
        left(format!("inner says {length} bytes, not 100"), &header);
    }
    left("inner checksum wrong behind options".to_owned(), &|tag| Ipv4 {
        checksum: Some(0x1234),
        options: vec![1; 4],
        ..ip(tag)
    });
    for length in [20, 28, 46, 99] {
        probes.add(format!("inner says {length} bytes, the rest of 100 is padding"), |tag| {
            wrap(WAY.datagram(&Ipv4 { total_len: Some(length), ..ip(tag) }, 100))
        });
    }
}

fn inner_addresses(probes: &mut Probes) {
    let from = |tag, source: [u8; 4]| {
        outer().packet(&WAY.datagram(&Ipv4 { source: source.into(), ..ip(tag) }, 100))
    };
    for (what, address) in [
        ("a pod of this node", [10, 20, 105, 215]),
        ("this node's tunnel address", [10, 20, 105, 192]),
        ("this node", [172, 16, 36, 10]),
        ("loopback", [127, 0, 0, 1]),
        ("a group", [224, 0, 0, 9]),
        ("no host", [240, 0, 0, 1]),
        ("zero", [0, 0, 0, 0]),
        ("the other node's tunnel address", [10, 20, 42, 0]),
    ] {
        probes.add(format!("from {what}"), |tag| from(tag, address));
    }
    probes.add("from nowhere we have a route to", |tag| from(tag, [10, 99, 0, 1])).left();
    let third = |node, tag| {
        let inner = WAY.datagram(&Ipv4 { source: THIRD_POD, ..ip(tag) }, 100);
        Ipv4 { source: node, ..outer() }.packet(&inner)
    };
    probes.add("from a third node's pod", |tag| third(THIRD, tag));
    probes
        .add("from a third node's pod, by another node", |tag| third(PEER, tag))
        .lost(Difference::ForgedSource);

    let to = |tag, destination: [u8; 4]| {
        outer().packet(&WAY.datagram(&Ipv4 { destination: destination.into(), ..ip(tag) }, 100))
    };
    for (what, address) in [
        ("this node's tunnel address", [10, 20, 105, 192]),
        ("this node", [172, 16, 36, 10]),
        ("no pod of this node", [10, 20, 105, 250]),
        ("a pod of a third node", [10, 20, 7, 70]),
        ("a pod of its own node", [10, 20, 42, 32]),
        ("no route at all", [10, 99, 0, 1]),
        ("a broadcast", [255, 255, 255, 255]),
        ("a group", [224, 0, 0, 9]),
        ("loopback", [127, 0, 0, 1]),
        ("zero", [0, 0, 0, 0]),
    ] {
        probes.add(format!("to {what}"), |tag| to(tag, address));
    }
}

fn tunnels(probes: &mut Probes) {
    probes
        .add("wrapped twice", |tag| outer().packet(&outer().packet(&plain(tag))))
        // rp_filter stops it behind tunl0, if it is strict.
        .left();
    let middle = |tag, protocol| Ipv4 { protocol, ..ip(tag) };
    for protocol in [4, 41] {
        probes
            .add(format!("a tunnel inside, protocol {protocol}"), |tag| {
                let payload = if protocol == 4 { plain(tag) } else { pattern(80) };
                outer().packet(&middle(tag, protocol).packet(&payload))
            })
            .left()
            .lost(Difference::NestedTunnel);
    }
}
