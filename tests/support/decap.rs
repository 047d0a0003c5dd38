//! What the two tables of decapsulation share: frames and their families.

use std::net::Ipv4Addr;

use dataplane_common::Reason;

use super::{
    faults::{
        Fails::{self, Dropped, Passed},
        fragments, impossible_headers, impossible_lengths, not_ipv4, options,
    },
    packet::{EVIL, Frame},
    world::{
        BORROWED, EXTRA_SOURCE, NEIGHBOUR, NODE_AWAY, NODE_UNKNOWN, NODE1, NODE2, NODE3, POD,
        REMOTE, REMOTE_AWAY, REMOTE_DIRECT, REMOTE3, STRANGER, TUNNEL_ADDRESS, from_wire,
    },
};

/// Length of [`plain`]'s outer packet.
const OUTER: u16 = 20 + 20 + 8 + 64;

/// From a pod of node 2 to ours, outer header only.
#[must_use]
pub fn outer() -> Frame {
    from_wire().ipv4(NODE2, NODE1).ttl(60)
}

/// Both headers.
#[must_use]
pub fn ip() -> Frame {
    outer().ipv4(REMOTE, POD)
}

/// A datagram in both headers.
#[must_use]
pub fn plain() -> Frame {
    ip().udp(1000, 2000).payload(64)
}

/// Sources node 2 may use, or another node its own.
#[must_use]
pub fn honest() -> Vec<(Ipv4Addr, Ipv4Addr)> {
    vec![
        (NODE2, REMOTE),
        (NODE3, REMOTE3),
        // The node itself, without a tunnel address.
        (NODE2, NODE2),
        (NODE3, NODE3),
        (NODE2, EXTRA_SOURCE),
        (NODE3, BORROWED),
        // Peers may go on wrapping what we send plain.
        (NODE2, REMOTE_DIRECT),
        // Known, though we could not answer it.
        (NODE_AWAY, REMOTE_AWAY),
    ]
}

/// Sources nobody may use, that are ours, or another node's; what they are
/// dropped for, and what they are counted under if the stack shall judge.
#[must_use]
pub fn spoofs() -> Vec<(Ipv4Addr, Ipv4Addr, Reason, Reason)> {
    let martian = |a, b, c, d| {
        (NODE2, Ipv4Addr::new(a, b, c, d), Reason::DecapMartianSource, Reason::DecapMartianToStack)
    };
    let own = |source| (NODE2, source, Reason::DecapOwnSource, Reason::DecapOwnToStack);
    let forged =
        |node, source| (node, source, Reason::DecapForgedSource, Reason::DecapForgedToStack);
    vec![
        martian(0, 0, 0, 0),
        martian(0, 1, 2, 3),
        martian(127, 0, 0, 1),
        martian(127, 255, 255, 255),
        martian(224, 0, 0, 5),
        martian(239, 255, 255, 255),
        martian(240, 0, 0, 1),
        martian(255, 255, 255, 255),
        own(NODE1),
        own(TUNNEL_ADDRESS),
        own(POD),
        own(NEIGHBOUR),
        forged(NODE2, REMOTE3),
        forged(NODE2, BORROWED),
        forged(NODE2, REMOTE_AWAY),
        forged(NODE3, REMOTE),
        forged(NODE3, EXTRA_SOURCE),
        forged(NODE_AWAY, REMOTE),
    ]
}

/// RFC 6040 figure 4: `[inner][outer]`, both in the order of the code points
/// Not-ECT 00, ECT(1) 01, ECT(0) 10, CE 11; `None` is "must drop".
pub const ECN: [[Option<u8>; 4]; 4] = [
    [Some(0b00), Some(0b00), Some(0b00), None],
    [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
    [Some(0b10), Some(0b01), Some(0b10), Some(0b11)],
    [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
];

/// Frames that fail a check, and which.
#[must_use]
pub fn failing() -> Vec<(String, Frame, Fails)> {
    let plain = plain();
    let mut all = Vec::new();
    let mut add = |frames: Vec<(String, Frame)>, about: &str, fails| {
        all.extend(
            frames.into_iter().map(|(what, frame)| (format!("{about}: {what}"), frame, fails)),
        );
    };
    add(not_ipv4(&plain), "frame", Passed(Reason::DecapNotIpv4));
    add(impossible_headers(&plain, 0), "outer", Passed(Reason::DecapOuterBadHeader));
    add(options(&plain, 0), "outer", Passed(Reason::DecapOuterOptions));
    add(fragments(&plain, 0), "outer", Passed(Reason::DecapOuterFragment));
    add(
        fragments(&plain.clone().edit(0, |ip| ip.fragment = EVIL), 0),
        "outer",
        Passed(Reason::DecapOuterFragment),
    );
    add(impossible_lengths(&plain, 0, OUTER), "outer", Passed(Reason::DecapOuterBadLength));
    add(impossible_headers(&plain, 1), "inner", Passed(Reason::DecapInnerBadHeader));
    add(impossible_lengths(&plain, 1, OUTER - 20), "inner", Passed(Reason::DecapInnerBadLength));
    // Its room is what the outer header says, not what the frame has.
    let padded = plain.clone().padding(30);
    add(
        impossible_lengths(&padded, 1, OUTER - 20),
        "inner, padded",
        Passed(Reason::DecapInnerBadLength),
    );
    let tunnels = [4, 41].map(|protocol| {
        (format!("protocol {protocol}"), plain.clone().edit(1, |ip| ip.protocol = Some(protocol)))
    });
    add(tunnels.into(), "inner", Passed(Reason::DecapNestedTunnel));
    let other_protocols = [0, 1, 6, 17, 41, 47, 255].map(|protocol| {
        (format!("protocol {protocol}"), plain.clone().edit(0, |ip| ip.protocol = Some(protocol)))
    });
    add(other_protocols.into(), "outer", Passed(Reason::DecapNotIpip));
    let short = plain.clone().edit(1, |ip| (ip.options, ip.total_length) = (vec![1; 40], Some(59)));
    add(
        vec![("shorter than its header".to_string(), short)],
        "inner",
        Passed(Reason::DecapInnerBadLength),
    );
    let carried = (20..40).map(|length| {
        let frame = plain.clone().edit(0, |ip| ip.total_length = Some(length));
        (format!("total length {length} holds no second header"), frame)
    });
    add(carried.collect(), "outer", Passed(Reason::DecapInnerTruncated));
    for source in [STRANGER, NODE_UNKNOWN, NODE3] {
        let frame = plain.clone().edit(1, |ip| ip.from = source);
        add(vec![(format!("from {source}"), frame)], "inner", Passed(Reason::DecapSourceUnknown));
    }
    for node in [NODE_UNKNOWN, NODE1, STRANGER, REMOTE] {
        let frame = plain.clone().edit(0, |ip| ip.from = node);
        add(vec![(format!("from {node}"), frame)], "outer", Passed(Reason::DecapUnknownNode));
    }
    for address in [NODE2, TUNNEL_ADDRESS, POD, Ipv4Addr::BROADCAST] {
        let frame = plain.clone().edit(0, |ip| ip.to = address);
        add(vec![(format!("to {address}"), frame)], "outer", Passed(Reason::DecapOtherDestination));
    }
    for (node, source, reason, _) in spoofs() {
        let frame = plain.clone().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        add(vec![(format!("{source} from {node}"), frame)], "spoof", Dropped(reason));
    }
    all
}

/// Cut short: the outer header still says the whole length, or it says what is
/// there.
#[must_use]
pub fn truncated() -> Vec<(String, Frame, Fails)> {
    let whole = plain().bytes().len();
    let mut all = Vec::new();
    for length in 34..whole {
        let cut = plain().cut(length);
        all.push((
            format!("cut to {length} of {whole} bytes"),
            cut.clone(),
            Passed(Reason::DecapOuterBadLength),
        ));
        let carried = length - 34;
        let fails =
            if carried < 20 { Reason::DecapInnerTruncated } else { Reason::DecapInnerBadLength };
        let honest = cut.edit(0, |ip| ip.total_length = Some((20 + carried) as u16));
        all.push((format!("{carried} bytes carried of {}", whole - 34), honest, Passed(fails)));
    }
    all
}
