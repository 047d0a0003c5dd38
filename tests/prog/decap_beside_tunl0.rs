//! `decap_tc` beside tunl0, which unwraps what we pass: a node gets nothing past the source check
//! by the shape of its packets.

use dataplane_common::Reason::{
    self, DecapForgedSource, DecapMartianSource, DecapNestedTunnel, DecapNodeOptions,
    DecapNodeShortFragment, DecapNodeToMany, DecapNodeTwice, DecapNotForHost,
    DecapOtherDestination, DecapOuterFragment, DecapOuterOptions, DecapOwnSource,
};
use tunless_tests::{
    case::{self, Case},
    decap::{honest, outer, plain, spoofs},
    faults::Fails,
    packet::{Frame, IPV4, MF, Mac},
    prog::Program,
    world::{NODE1, NODE2, NODE3, POD, REMOTE, REMOTE3, ROUTER_MAC, STRANGER, TUNNEL_ADDRESS},
};

const ALL: Mac = [0xff; 6];
const GROUP: Mac = [1, 0, 0x5e, 0, 0, 1];
const OTHER_MACHINE: Mac = [2, 0, 0, 0, 0, 99];

#[test]
fn table() {
    case::run("decap_beside_tunl0", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, packet, left, fails) in shapes() {
        let case = |what: &str| Case::new(Program::DecapTc, what, &packet);
        cases.push(fails.at_tc(case(&what).on_tunl0()));
        // In `replace` nothing unwraps it; with `spoof: stack` the kernel judges.
        cases.push(case(&format!("{what}, replace")).passed(left));
        cases.push(case(&format!("{what}, spoof: stack")).on_tunl0().spoof_to_stack().passed(left));
        let stranger = packet.clone().edit(0, |ip| ip.from = STRANGER);
        cases.push(
            Case::new(Program::DecapTc, format!("{what}, of no node"), &stranger)
                .on_tunl0()
                .passed(if left == DecapNestedTunnel { Reason::DecapUnknownNode } else { left }),
        );
    }
    cases
}

/// Packets of a node that `decap_tc` passes in `replace`, why, and what becomes of them beside tunl0.
fn shapes() -> Vec<(String, Frame, Reason, Fails)> {
    let mut shapes = Vec::new();
    let mut add = |what: String, packet: Frame, left, fails| {
        shapes.push((what, packet, left, fails));
    };
    for (what, to, fails) in [
        ("to all", ALL, Fails::Dropped(DecapNodeToMany)),
        ("to a group", GROUP, Fails::Dropped(DecapNodeToMany)),
        // No kernel takes that one in.
        ("to another machine", OTHER_MACHINE, Fails::Passed(DecapNotForHost)),
    ] {
        add(what.to_owned(), plain().macs(to, ROUTER_MAC), DecapNotForHost, fails);
    }
    for words in [1, 10] {
        let packet = plain().edit(0, |ip| ip.options = vec![1; words * 4]);
        add(
            format!("{words} words of options"),
            packet,
            DecapOuterOptions,
            Fails::Dropped(DecapNodeOptions),
        );
    }
    fragments(&mut add);
    elsewhere(&mut add);
    twice(&mut add);
    shapes
}

fn fragments(add: &mut impl FnMut(String, Frame, Reason, Fails)) {
    let first =
        |length: u16| plain().edit(0, |ip| (ip.fragment, ip.total_length) = (MF, Some(length)));
    let short = Fails::Dropped(DecapNodeShortFragment);
    for length in [28, 36] {
        // What lies behind it is padding, whatever it looks like.
        add(format!("first fragment of {length} bytes"), first(length), DecapOuterFragment, short);
    }
    for (offset, fails) in [
        (1, short),
        (2, short),
        (3, Fails::Passed(DecapOuterFragment)),
        (0x1fff, Fails::Passed(DecapOuterFragment)),
    ] {
        for more in [0, MF] {
            let packet = plain().edit(0, |ip| ip.fragment = more | offset);
            add(
                format!("fragment at {offset} words, {more:#x}"),
                packet,
                DecapOuterFragment,
                fails,
            );
        }
    }
    for (node, source) in honest() {
        let packet = first(60).edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let fails = Fails::Passed(DecapOuterFragment);
        add(format!("first fragment, {source} from {node}"), packet, DecapOuterFragment, fails);
    }
    for (node, source, lie, _) in spoofs() {
        let packet = first(60).edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        add(
            format!("first fragment, {source} from {node}"),
            packet,
            DecapOuterFragment,
            Fails::Dropped(lie),
        );
    }
}

/// tunl0 takes what comes to any address of this host.
fn elsewhere(add: &mut impl FnMut(String, Frame, Reason, Fails)) {
    for to in [TUNNEL_ADDRESS, STRANGER] {
        for (source, fails) in [
            (REMOTE, Fails::Passed(DecapOtherDestination)),
            (NODE2, Fails::Passed(DecapOtherDestination)),
            (STRANGER, Fails::Passed(DecapOtherDestination)),
            (REMOTE3, Fails::Dropped(DecapForgedSource)),
            (POD, Fails::Dropped(DecapOwnSource)),
            ([127, 0, 0, 1].into(), Fails::Dropped(DecapMartianSource)),
        ] {
            let packet = plain().edit(0, |ip| ip.to = to).edit(1, |ip| ip.from = source);
            add(format!("to {to}, from {source}"), packet, DecapOtherDestination, fails);
        }
    }
    let cut = outer().edit(0, |ip| ip.to = TUNNEL_ADDRESS).raw(4).cut(14 + 2 * IPV4 - 1);
    let fails = Fails::Passed(DecapOtherDestination);
    add("to another address, cut short".to_owned(), cut, DecapOtherDestination, fails);
}

/// What tunl0 has unwrapped, it takes for a tunnel packet again.
fn twice(add: &mut impl FnMut(String, Frame, Reason, Fails)) {
    let nested = |source, to| outer().ipv4(source, to).ipv4(REMOTE3, POD).udp(1, 2);
    for (source, to, fails) in [
        (NODE2, NODE1, Fails::Dropped(DecapNodeTwice)),
        (NODE2, TUNNEL_ADDRESS, Fails::Dropped(DecapNodeTwice)),
        (NODE2, STRANGER, Fails::Dropped(DecapNodeTwice)),
        (NODE3, NODE1, Fails::Dropped(DecapNodeTwice)),
        // A pod's own tunnels: into a pod, and through this node to the world.
        (NODE2, POD, Fails::Passed(DecapNestedTunnel)),
        (REMOTE, POD, Fails::Passed(DecapNestedTunnel)),
        (REMOTE, STRANGER, Fails::Passed(DecapNestedTunnel)),
        (REMOTE3, POD, Fails::Dropped(DecapForgedSource)),
    ] {
        add(format!("twice, {source} to {to}"), nested(source, to), DecapNestedTunnel, fails);
    }
    let six = plain().edit(1, |ip| ip.protocol = Some(41));
    let fails = Fails::Passed(DecapNestedTunnel);
    add("6in4 inside".to_owned(), six, DecapNestedTunnel, fails);
}
