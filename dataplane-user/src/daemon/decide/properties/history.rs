//! What stays because it was there before, and by what that is known.

use dataplane_common::Program;

use super::{super::handovers::Failure, *};
use crate::bpf::Attachment;

/// A world where two things come, in both orders: each is what it is by the first one alone.
fn first_and_second(
    first: impl Fn(&mut World),
    second: impl Fn(&mut World),
    found: impl Fn(&Settled) -> String,
) -> [String; 2] {
    let both: [&dyn Fn(&mut World); 2] = [&first, &second];
    [[0, 1], [1, 0]].map(|order| {
        let mut world = World { has_addresses: true, ..World::default() };
        let mut daemon = Daemon::start(&world);
        for index in order {
            both[index](&mut world);
            daemon.settle(&world, &REMOTE);
        }
        let live = daemon.settle(&world, &REMOTE);
        daemon.restart(&world);
        assert_eq!(found(&live), found(&daemon.settle(&world, &REMOTE)), "a restart decides alike");
        found(&live)
    })
}

fn claims_of(world: &mut World, kind: SourceKind) -> &mut Vec<Change> {
    world.claims.entry(kind).or_default()
}

/// The exceptions from order: what came first stays, also after a restart.
#[test]
fn of_equals_the_first_stays() {
    let node = |cidr: Ipv4Net| {
        move |settled: &Settled| {
            let route = settled.decision().desired.tables.routes.get(&cidr);
            let route = route.filter(|route| route.is_destination());
            route.map_or_else(|| "-".to_owned(), |route| Ipv4Addr::from(route.node).to_string())
        }
    };
    // Two nodes claim one prefix.
    let by = |origin: &'static str, owner| {
        move |world: &mut World| {
            claims_of(world, SourceKind::Etcd).push(claim(block(1), origin, owner));
        }
    };
    let found = first_and_second(by("a", A), by("b", B), node(block(1)));
    assert_eq!(found, [A.to_string(), B.to_string()]);
    // A prefix, and a node inside it: that is decided alike in any order.
    let inside = Ipv4Addr::new(10, 20, 1, 7);
    let wide = |world: &mut World| {
        claims_of(world, SourceKind::Etcd).push(claim(block(1), "wide", A));
    };
    let narrow = move |world: &mut World| {
        claims_of(world, SourceKind::Etcd).push(claim(block(2), "narrow", inside));
    };
    let found = first_and_second(wide, narrow, node(block(1)));
    assert_eq!(found, ["-".to_owned(), "-".into()]);
    let found = first_and_second(wide, narrow, node(block(2)));
    assert_eq!(found, [inside.to_string(), inside.to_string()]);
    // The datastore has another node for a block with a pod of ours.
    let ours = net("10.20.105.192/26");
    let taken = move |world: &mut World| {
        claims_of(world, SourceKind::Etcd).push(claim(ours, "block", A));
    };
    let pods = |world: &mut World| world.pods = [0].into();
    assert_eq!(first_and_second(taken, pods, node(ours)), [A.to_string(), "-".into()]);
    // tunl0 carries routes to all prefixes but one.
    let lacking = |world: &mut World| {
        claims_of(world, SourceKind::Etcd).push(claim(block(NEW), "new", A));
    };
    let tunl0 = |world: &mut World| world.has_tunl0 = true;
    let mode = |settled: &Settled| settled.decision().mode.mode.as_str().to_owned();
    assert_eq!(first_and_second(lacking, tunl0, mode), ["replace", "accelerate"]);
}

/// Which address is ours, which mode, and where XDP is of no use: the decision stays when its
/// ground is gone, restarts included.
#[test]
fn history_is_what_memory_holds() {
    type Change = fn(&mut World);
    let steps: [(&str, Change); 6] = [
        ("at first", |world| world.has_tunl0 = true),
        ("XDP hands nothing over", |world| world.counted.unable = 5),
        ("XDP handed something over", |world| world.counted.unwrapped = 9),
        ("the kernel prefers another source", |world| world.by_second = [A, B].into()),
        ("tunl0 lacks a route", |world| {
            claims_of(world, SourceKind::Etcd).push(claim(block(NEW), "new", B));
        }),
        ("counters were flushed", |world| world.counted = Counted::default()),
    ];
    for restarts in [false, true] {
        let mut world = World { has_addresses: true, ..World::default() };
        let mut daemon = Daemon::start(&world);
        let mut found = Vec::new();
        for (step, change) in steps {
            change(&mut world);
            if restarts {
                daemon.restart(&world);
            }
            let settled = daemon.settle(&world, &REMOTE);
            let decision = settled.decision();
            let xdp =
                decision.desired.attachments.iter().any(|it| {
                    it.ifindex == ETH0 && it.program == dataplane_common::Program::DecapXdp
                });
            found.push((step, decision.node.address, decision.mode.mode, xdp));
        }
        let later = (OURS, TunnelMode::Accelerate, false);
        let expected = steps.map(|(step, _)| (step, later.0, later.1, step == "at first"));
        assert_eq!(found, expected, "restarts: {restarts}");
    }
}

/// The default route prefers another source than the paths to nodes: whether it or the first
/// node came first does not matter.
#[test]
fn the_default_routes_source_gives_way_to_that_of_paths() {
    let mut world = World { has_addresses: true, file: 0, ..World::default() };
    let mut daemon = Daemon::start(&world);
    assert_eq!(daemon.settle(&world, &REMOTE).decision().node.address, OURS);
    world.by_second = [A].into();
    let mut other = Daemon::start(&world);
    assert_eq!(other.settle(&world, &REMOTE).decision().node.address, SECOND);
}

/// What the datastore records about this node stays in force until it records something else:
/// silence and restarts change nothing, and neither does the end of the Node itself for the node
/// address. A tunnel address that is not on record any more goes.
#[test]
fn what_the_datastore_records_about_us_outlives_its_silence() {
    let record = |address, tunnel_address| Some(Some(NodeRecord { address, tunnel_address }));
    let (tunnel, other) = (Some(TUNNEL_ADDRESS), Some(pod(50)));
    for restarts in [false, true] {
        let mut world = World { has_addresses: true, file: 0, ..World::default() };
        let mut daemon = Daemon::start(&world);
        assert_eq!(daemon.settle(&world, &REMOTE).decision().node.address, OURS);
        for (own_node, sources, address, tunnel) in [
            (record(Some(SECOND), tunnel), &REMOTE[..], SECOND, tunnel),
            // The source is silent from here on, or is heard again.
            (None, &[], SECOND, tunnel),
            (record(Some(OURS), other), &REMOTE, OURS, other),
            (record(Some(LOST), other), &REMOTE, OURS, other),
            (record(Some(SECOND), None), &REMOTE, SECOND, None),
            (record(Some(SECOND), tunnel), &REMOTE, SECOND, tunnel),
            (Some(None), &REMOTE, SECOND, None),
            (None, &[], SECOND, None),
        ] {
            world.own_node = own_node;
            if restarts {
                daemon.restart(&world);
            }
            let settled = daemon.settle(&world, sources);
            let facts = &settled.decision().facts;
            assert_eq!((facts.node, facts.tunnel.address), (address, tunnel), "{own_node:?}");
        }
    }
}

/// A prefix around a server that a source needs makes no route, whichever source claims it, and
/// whether the server's name can still be resolved or not, also where it serves behind another address.
#[test]
fn a_server_stays_outside_the_tunnel() {
    let (server, elsewhere) = (Ipv4Addr::new(10, 20, 2, 9), Ipv4Addr::new(198, 51, 100, 9));
    for (restarts, is_behind) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World { has_addresses: true, is_behind, ..World::default() };
        world.server = Some(elsewhere);
        claims_of(&mut world, SourceKind::Bird).push(claim(block(2), "wide", A));
        let mut daemon = Daemon::start(&world);
        let all = &REMOTE[..];
        let without_etcd = [SourceKind::Bird, SourceKind::Kernel];
        for (what, resolved, sources, has_route) in [
            ("another address", Some(elsewhere), all, true),
            ("an address inside", Some(server), all, false),
            ("not resolved any more", None, all, false),
            ("not reported", None, &without_etcd, false),
            ("another address again", Some(elsewhere), all, true),
        ] {
            world.server = resolved;
            if restarts {
                daemon.restart(&world);
            }
            for kind in sources {
                daemon.report(&world, *kind);
            }
            daemon.step(&world);
            daemon.whole(&world);
            let table = daemon.decider.table();
            assert_eq!(table.routes().contains_key(&block(2)), has_route, "{what}");
            let alarm = table.alarms().get(&block(2));
            assert_eq!(alarm.is_some(), !has_route, "{what}");
            let is_named = |alarm: &String| alarm.contains("10.20.2.9 lies inside it");
            assert!(alarm.is_none_or(is_named), "{what}: {alarm:?}");
        }
    }
}

/// What is wrong, for worlds that lack one thing each.
#[test]
fn problems_follow_from_the_decision() {
    use crate::daemon::report::Code;
    type Change = fn(&mut World);
    let cases: [(Change, &[Code]); 6] = [
        (|world| world.has_tunl0 = true, &[]),
        (|_| (), &[Code::NoTunnelAddress]),
        (
            |world| {
                world.has_tunl0 = true;
                world.refusal = Some("no conntrack".into());
            },
            &[Code::FastpathWithheld],
        ),
        (
            |world| {
                world.has_tunl0 = true;
                claims_of(world, SourceKind::Etcd).push(claim(block(NEW), "new", LOST));
                world.file = 3;
            },
            &[],
        ),
        (
            |world| claims_of(world, SourceKind::Etcd).push(claim(block(NEW), "new", LOST)),
            &[Code::NoTunnelAddress, Code::Unreachable],
        ),
        // Without tunl0 nothing can be decided.
        (|world| world.file = 3, &[Code::TunnelDeviceMissing]),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let mut world = World { has_addresses: true, has_eth1: true, ..World::default() };
        change(&mut world);
        let mut daemon = Daemon::start(&world);
        let mut found: Vec<Code> = daemon.problems(&world);
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "case {index}");
    }
    let mut world = World::default();
    assert_eq!(Daemon::start(&world).problems(&world), [Code::NoNodeAddress]);
    // The host has no default route: the nodes that are claimed show which address is ours.
    world.has_addresses = true;
    world.has_default = false;
    assert_eq!(Daemon::start(&world).settle(&world, &REMOTE).decision().node.address, OURS);
}

/// Where XDP's packets do not arrive it is taken off and stays off, restarts included, until the link
/// is another one.
#[test]
fn a_link_that_was_given_up_stays_without_xdp() {
    type Change = fn(&mut World);
    let steps: [(&str, Change, bool); 4] = [
        ("at first", |_| (), true),
        ("metadata is lost", |world| world.given_up = [(ETH0, Failure::Lost)].into(), false),
        ("the programs are attached no more", |world| world.given_up.clear(), false),
        ("another driver", |world| world.driver = Some("mlx4_core 4.9".into()), true),
    ];
    for restarts in [false, true] {
        let mut world = World { has_addresses: true, ..World::default() };
        let mut daemon = Daemon::start(&world);
        for (step, change, expected) in &steps {
            change(&mut world);
            if restarts {
                daemon.restart(&world);
            }
            let settled = daemon.settle(&world, &REMOTE);
            let attachments = &settled.decision().desired.attachments;
            let xdp = Attachment { program: Program::DecapXdp, ifindex: ETH0 };
            assert_eq!(attachments.contains(&xdp), *expected, "{step}, restarts: {restarts}");
        }
    }
}
