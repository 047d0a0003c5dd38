//! Pods move while the daemon is dead, and nothing tells the programs: after a minute a source that
//! contradicts their tables is no proven lie, and an address that was here may be elsewhere.

use std::{net::Ipv4Addr, time::Duration};

use dataplane_common::{
    Reason::{DecapMartianSource, DecapOuterFragment, HostEncapsulated, HostNoRoute},
    Route,
};
use tunless_tests::{
    case::{self, Case},
    decap::{plain, spoofs},
    packet::{DF, Frame, MF},
    prog::Program,
    world::{Entry, NODE1, NODE2, POD, REMOTE, ROUTER_MAC, TUNNEL_ADDRESS, TUNNEL_MAC, from_stack},
};

/// Longer ago, and less long, than the tables are proof.
const LATE: Entry = Entry::Kept(Duration::from_secs(61));
const IN_TIME: Entry = Entry::Kept(Duration::from_secs(30));

#[test]
fn table() {
    case::run("daemon_dead", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    [lies(), beside_tunl0(), moved_away()].concat()
}

fn lies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (node, source, lie, to_stack) in spoofs() {
        let packet = plain().edit(0, |ip| ip.from = node).edit(1, |ip| ip.from = source);
        let case = Case::new(Program::DecapTc, format!("{source} from {node}"), &packet);
        let late = case.clone().with(LATE);
        cases.push(case.with(IN_TIME).dropped(lie));
        cases.push(if lie == DecapMartianSource {
            late.dropped(lie)
        } else {
            late.sent(to_stack, &packet.unwrapped().macs(TUNNEL_MAC, ROUTER_MAC))
        });
    }
    cases
}

/// tunl0 is the judge then.
fn beside_tunl0() -> Vec<Case> {
    let (node, source, lie, _) = spoofs().pop().expect("there are some");
    let packet =
        plain().edit(0, |ip| (ip.from, ip.fragment) = (node, MF)).edit(1, |ip| ip.from = source);
    let case = Case::new(Program::DecapTc, "the first fragment of a lie", &packet).on_tunl0();
    vec![case.clone().with(IN_TIME).dropped(lie), case.with(LATE).passed(DecapOuterFragment)]
}

/// The kernel sends to the tunnel device what it does not take for a pod of this host.
fn moved_away() -> Vec<Case> {
    let here =
        Route { node: NODE1.into(), since: 0, flags: Route::LOCAL, source: Route::SOURCE_LOCAL };
    let back = Ipv4Addr::from(REMOTE.to_bits() ^ 1);
    let inner = |frame: Frame, to| frame.ipv4(TUNNEL_ADDRESS, to).ttl(63).udp(1, 2);
    let packet = inner(from_stack(), back);
    let wrapped = from_stack().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(63);
    let case = |what: &str, packet: &Frame| {
        Case::new(Program::EncapHost, what, packet).with(Entry::Route(back, 32, here))
    };
    let to_own = inner(from_stack(), POD);
    vec![
        case("borrowed, and here", &packet).with(IN_TIME).dropped(HostNoRoute),
        case("borrowed, and back at its node", &packet)
            .with(LATE)
            .sent(HostEncapsulated, &inner(wrapped, back)),
        case("of our own block: no route is known", &to_own).with(LATE).dropped(HostNoRoute),
    ]
}
