//! Leases of UDP flows that get no answer, at both hooks behind netfilter.

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Flow, Lease, Node,
    Reason::{
        self, GrantConnectionControl, GrantGiven, GrantLeased, GrantUnanswered,
        GrantUnansweredGiven, GrantUnmarked, GrantUnproven, HostConnectionControl,
        HostLeaseGranted, HostLeased, HostUnanswered, HostUnansweredLeaseGranted, HostUnmarked,
        HostUnproven,
    },
    unanswered::{AFTER, PACKETS, WAYS},
};
use tunless_tests::{
    case::{self, Case},
    packet::{DF, Frame, flags},
    places::Place,
    prog::Program,
    world::{
        self, Entry, LEASE, MARK, NEIGHBOUR_IF, NODE1, NODE2, OVER, POD, REMOTE, SECRET,
        SERVICE_MARK, UNANSWERED_MARK, from_stack, to_pod, translating, way_to_node2, way_to_pod,
    },
};

#[test]
fn table() {
    case::run("unanswered", &cases());
}

/// Every row.
pub fn cases() -> Vec<Case> {
    let of = |hook: &Hook| {
        [waiting(hook), granted(hook), places(hook), otherwise(hook), switched_off(hook)].concat()
    };
    [of(&ENCAP), of(&DECAP)].concat()
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const MILLISECOND: u64 = 1_000_000;
/// Long enough for a lease.
const LONG: u64 = AFTER + 50 * MILLISECOND;
/// A place is held for so long by a flow without a lease, and by one that is granted one.
const HELD: i64 = LEASE as i64;
const HELD_BY_LEASE: i64 = 2 * HELD;

/// A hook behind netfilter, and what it counts.
struct Hook {
    direction: Direction,
    granted: Reason,
    plain: Reason,
    leased: Reason,
    waits: Reason,
    unmarked: Reason,
    unproven: Reason,
    control: Reason,
}

const ENCAP: Hook = Hook {
    direction: Direction::Encap,
    granted: HostUnansweredLeaseGranted,
    plain: HostLeaseGranted,
    leased: HostLeased,
    waits: HostUnanswered,
    unmarked: HostUnmarked,
    unproven: HostUnproven,
    control: HostConnectionControl,
};
const DECAP: Hook = Hook {
    direction: Direction::Decap,
    granted: GrantUnansweredGiven,
    plain: GrantGiven,
    leased: GrantLeased,
    waits: GrantUnanswered,
    unmarked: GrantUnmarked,
    unproven: GrantUnproven,
    control: GrantConnectionControl,
};

impl Hook {
    fn program(&self) -> Program {
        match self.direction {
            Direction::Encap => Program::EncapHost,
            Direction::Decap => Program::GrantDecap,
        }
    }

    fn ends(&self) -> [Ipv4Addr; 2] {
        match self.direction {
            Direction::Encap => [POD, REMOTE],
            Direction::Decap => [REMOTE, POD],
        }
    }

    fn flow(&self, port: u16) -> Flow {
        let [from, to] = self.ends();
        world::flow(self.direction, UDP, (from, port), (to, 2000))
    }

    fn ip(&self) -> Frame {
        let [from, to] = self.ends();
        match self.direction {
            Direction::Encap => from_stack().ipv4(from, to).ttl(63),
            Direction::Decap => to_pod().ipv4(from, to).ttl(62),
        }
    }

    fn way(&self) -> Node {
        match self.direction {
            Direction::Encap => way_to_node2(),
            Direction::Decap => way_to_pod(),
        }
    }

    fn good(&self, port: u16) -> Lease {
        world::lease(&self.flow(port), NODE2, self.way())
    }

    fn first(&self) -> Lease {
        Lease { packets: 0, bytes: 0, ..self.good(1000) }
    }

    fn answers(&self) -> Entry {
        let way = match self.direction {
            Direction::Encap => way_to_pod(),
            Direction::Decap => way_to_node2(),
        };
        let flow = self.flow(1000).reverse();
        Entry::Lease(flow, world::lease(&flow, NODE2, way))
    }

    /// A datagram with both bits and the tag that it is as it came.
    fn row(&self, what: &str, places: &[Place]) -> Case {
        let packet = self.ip().udp(1000, 2000).payload(64);
        Case::new(self.program(), what, &packet)
            .unanswered(places)
            .mark(UNANSWERED_MARK)
            .leaves_mark(0)
            .tag(self.flow(1000).tag(SECRET))
    }

    /// It goes on, whatever becomes of a lease.
    fn goes(&self, case: Case, reason: Reason) -> Case {
        self.goes_as(case, reason, &self.ip().udp(1000, 2000).payload(64))
    }

    fn goes_as(&self, case: Case, reason: Reason, packet: &Frame) -> Case {
        if self.direction == Direction::Decap {
            return case.passed(reason);
        }
        let bytes = packet.bytes();
        let ip = &bytes[14..];
        let outer = from_stack().ipv4(NODE1, NODE2).id(0).fragment(DF).ttl(ip[8]).tos(ip[1] & 3);
        case.sent(reason, &outer.raw(4).bytes_payload(ip))
    }

    fn place(&self, port: u16, packets: u32, since: u64, left: i64) -> Place {
        Place { flow: self.flow(port), packets, since, left }
    }

    /// This row's flow.
    fn own(&self, packets: u32, since: u64, left: i64) -> Place {
        self.place(1000, packets, since, left)
    }
}

fn waiting(hook: &Hook) -> Vec<Case> {
    let first = hook.own(1, 0, HELD);
    let waits = |what: &str, before: &[Place], (index, after): (usize, Place)| {
        hook.goes(hook.row(what, before).leaves_place(index, after), hook.waits)
    };
    vec![
        waits("the first that is confirmed", &[], (0, first)),
        waits("the second", &[hook.own(1, LONG, HELD)], (0, hook.own(2, LONG, HELD))),
        waits(
            "the third, too soon",
            &[hook.own(2, LONG / 2, HELD)],
            (0, hook.own(3, LONG / 2, HELD)),
        ),
        waits(
            "a hundredth, too soon",
            &[hook.own(3, LONG / 2, HELD)],
            (0, hook.own(3, LONG / 2, HELD)),
        ),
        waits("after too long a pause it begins anew", &[hook.own(3, 9 * LONG, -1)], (0, first)),
        waits(
            "another flow's packets are not its own",
            &[hook.place(1001, 3, LONG, HELD)],
            (1, first),
        ),
        waits(
            "the answers' are not, either",
            &[Place { flow: hook.flow(1000).reverse(), ..hook.own(3, LONG, HELD) }],
            (1, first),
        ),
    ]
}

fn granted(hook: &Hook) -> Vec<Case> {
    let (flow, after) = (hook.flow(1000), hook.own(PACKETS, LONG, HELD_BY_LEASE));
    let grants = |what: &str, before: Place| {
        let row = hook.row(what, &[before]).leaves_place(0, after);
        hook.goes(row.grants(flow, hook.first()), hook.granted)
    };
    let ready = hook.own(PACKETS - 1, LONG, HELD);
    let renewed = hook
        .row("its lease is over", &[hook.own(PACKETS, LONG, HELD)])
        .with(Entry::Lease(flow, Lease { expires: OVER, ..hook.good(1000) }))
        .leaves_place(0, after)
        .grants(flow, hook.good(1000));
    let fourth = hook
        .row(
            "in the last place",
            &[
                hook.place(1001, 3, LONG, HELD),
                hook.place(1002, 3, LONG, HELD),
                hook.place(1003, 3, LONG, HELD),
                ready,
            ],
        )
        .leaves_place(3, after)
        .grants(flow, hook.first());
    let others = hook
        .row("other bits of the mark stay", &[ready])
        .mark(0xffff_ffff)
        .leaves_mark(!UNANSWERED_MARK)
        .leaves_place(0, after)
        .grants(flow, hook.first());
    let leased = hook
        .row("it has a lease, but came by the stack", &[ready])
        .with(Entry::Lease(flow, hook.good(1000)))
        .leaves_place(0, after);
    let services = hook
        .row("with leases of Services", &[ready])
        .services()
        .leaves_place(0, after)
        .grants(flow, hook.first());
    vec![
        grants("the third, after two seconds", ready),
        grants("any later one", hook.own(PACKETS, LONG, HELD)),
        hook.goes(renewed, hook.granted),
        hook.goes(fourth, hook.granted),
        hook.goes(others, hook.granted),
        hook.goes(leased, hook.leased),
        hook.goes(services, hook.granted),
    ]
}

/// Those that are held stay, whatever other flow comes; with a free one goes its flow's lease.
fn places(hook: &Hook) -> Vec<Case> {
    let first = hook.own(1, 0, HELD);
    let full: Vec<Place> = (1..=WAYS as u16)
        .map(|port| hook.place(1000 + port, u32::from(port), LONG, i64::from(port) * 1_000_000_000))
        .collect();
    let mut second_free = full.clone();
    second_free[1].left = -1;
    let free = |what: &str| hook.row(what, &second_free).leaves_place(1, first);
    let flow = hook.flow(1002);
    let lease = |expires| Entry::Lease(flow, Lease { expires, ..hook.good(1002) });
    let to_service = translating(Lease { expires: OVER, ..hook.good(1002) }, REMOTE, 53);
    vec![
        hook.goes(hook.row("all places are held", &full), hook.waits),
        hook.goes(free("a place is free again"), hook.waits),
        hook.goes(free("its lease is over").with(lease(OVER)).revokes(flow), hook.waits),
        hook.goes(free("its lease is good: it was answered").with(lease(world::LATER)), hook.waits),
        hook.goes(
            free("its lease is a Service's").with(Entry::Lease(flow, to_service)),
            hook.waits,
        ),
    ]
}

fn otherwise(hook: &Hook) -> Vec<Case> {
    let flow = hook.flow(1000);
    let ready = [hook.own(PACKETS, LONG, HELD)];
    let ended = |case: Case| {
        case.with(Entry::Lease(flow, hook.good(1000)))
            .with(hook.answers())
            .revokes(flow)
            .revokes(flow.reverse())
    };
    let ack = hook.ip().tcp(1000, 2000, flags::FIN | flags::ACK).payload(0);
    let [from, to] = hook.ends();
    let tcp = world::flow(hook.direction, TCP, (from, 1000), (to, 2000));
    let control = Case::new(hook.program(), "a connection that ends", &ack)
        .unanswered(&ready)
        .mark(UNANSWERED_MARK)
        .leaves_mark(0)
        .tag(tcp.tag(SECRET));
    let foreign = hook.row("it did not come from there", &ready).came_by(NEIGHBOUR_IF);
    let foreign = foreign.leaves_place(0, hook.own(PACKETS, LONG, HELD_BY_LEASE));
    vec![
        hook.goes(ended(hook.row("not marked", &ready).mark(0)), hook.unmarked),
        hook.goes(hook.row("no tag", &ready).tag(0), hook.unproven),
        hook.goes(
            hook.row("no tag, and a lease that it could not use", &ready)
                .with(Entry::Lease(flow, hook.good(1000)))
                .tag(0),
            hook.leased,
        ),
        hook.goes(ended(hook.row("another's tag", &ready).tag(7)), hook.unproven),
        hook.goes(foreign, hook.unproven),
        hook.goes_as(control, hook.control, &ack),
        // Answered by now: places have no part in it.
        hook.goes(
            hook.row("established", &[]).mark(MARK).leaves_mark(0).grants(flow, hook.first()),
            hook.plain,
        ),
        hook.goes(
            ended(hook.row("a Service's bit, and none is leased", &ready))
                .mark(SERVICE_MARK)
                .leaves_mark(0),
            hook.unmarked,
        ),
    ]
}

/// Nothing marks so; the bit of plain flows is what it always was, and the other one is not ours.
fn switched_off(hook: &Hook) -> Vec<Case> {
    let packet = hook.ip().udp(1000, 2000).payload(64);
    let flow = hook.flow(1000);
    let row = Case::new(hook.program(), "switched off", &packet)
        .verified()
        .mark(UNANSWERED_MARK)
        .leaves_mark(SERVICE_MARK)
        .tag(flow.tag(SECRET))
        .grants(flow, hook.first());
    vec![hook.goes(row, hook.plain)]
}
