//! Leases while daemons die, tables vanish, sysctls change, pods come and go.

use std::{collections::BTreeMap, fs, net::SocketAddrV4, path::PathBuf, time::Duration};

use dataplane_common::Reason;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Node,
    capture::Capture,
    conntrack,
    felix::{Allow, Endpoint, enforce},
    service::Protocol,
    traffic::{conversation::Conversation, tcp},
};
use tunless_tests::scene::{
    Counters, HASTY, SOON, Scene, Setup, answers, assert_answered, assert_lossless, endpoint_of,
    leased::{assert_unleased, leases, wait_leased_at_client, wait_leased_at_server},
    stream_between, until,
};

const PORT: u16 = 7000;
const SHORT: &str = "leases: {seconds: 1}\n";
const SYSCTLS: [&str; 4] = [
    "nf_conntrack_tcp_be_liberal",
    "nf_conntrack_tcp_ignore_invalid_rst",
    "nf_conntrack_tcp_timeout_unacknowledged",
    "nf_conntrack_tcp_timeout_max_retrans",
];
/// As the kernel has them, and as leases need them.
const STRICT: [&str; 4] = ["0", "0", "300", "300"];
const RELAXED: [&str; 4] = ["1", "1", "432000", "432000"];

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// perf asks, sit answers.
fn talk(scene: &Scene, protocol: Protocol, port: u16) -> (Conversation, SocketAddrV4) {
    let (perf, sit) = scene.pods();
    let to = SocketAddrV4::new(sit.ip, port);
    let talk = Conversation::start(protocol, &perf.netns, to, &sit.netns, port).unwrap();
    (talk, to)
}

fn has_table(node: &Node) -> bool {
    node.netns.exec("nft", &["list", "tables"]).unwrap().contains("table ip tunless")
}

fn sysctls(node: &Node) -> [String; 4] {
    SYSCTLS.map(|name| node.netns.sysctl(&format!("netfilter/{name}")).unwrap())
}

/// Programs and table stay; only who takes both away ends leases.
#[test]
fn without_daemons_leases_are_renewed_until_the_table_goes() {
    for setup in Setup::BOTH_VERIFIED {
        Scene::with(lab(), setup, SHORT, &[]).case(|scene| {
            scene.warm_up();
            let (udp, to) = talk(scene, Protocol::Udp, PORT);
            wait_leased_at_client(&scene.daemon2, udp.client, to);
            for daemon in [&mut scene.daemon1, &mut scene.daemon2] {
                daemon.kill9().unwrap();
            }
            let before = Counters::of(&scene.daemon2);
            until("five renewals", SOON, || {
                let moved = before.moved(&scene.daemon2);
                let count = |reason| moved.get(&reason).copied().unwrap_or(0);
                (count(Reason::HostLeaseGranted) >= 5 && count(Reason::GrantGiven) >= 5)
                    .then_some(())
            });

            for node in [&scene.lab.node1, &scene.lab.node2] {
                node.netns.exec("nft", &["delete", "table", "ip", "tunless"]).unwrap();
            }
            let before = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
            for daemon in [&scene.daemon1, &scene.daemon2] {
                until("no lease is left", SOON, || leases(daemon).is_empty().then_some(()));
            }
            let drained = [Counters::of(&scene.daemon1), Counters::of(&scene.daemon2)];
            assert!(udp.wait_for(100, SOON), "the stack carries it");
            for ((before, drained), daemon) in
                before.iter().zip(&drained).zip([&scene.daemon1, &scene.daemon2])
            {
                let moved = before.moved(daemon);
                for reason in [Reason::HostLeaseGranted, Reason::GrantGiven] {
                    assert_eq!(moved.get(&reason), None, "{moved:?}");
                }
                let moved = drained.moved(daemon);
                for reason in [Reason::PodEncapsulated, Reason::DecapToPod] {
                    assert_eq!(moved.get(&reason), None, "{moved:?}");
                }
                before.assert_nothing_dropped(daemon);
            }
            for daemon in [&mut scene.daemon1, &mut scene.daemon2] {
                daemon.restart().unwrap();
            }
            wait_leased_at_client(&scene.daemon2, udp.client, to);
            scene.assert_nothing_plain();
            drop(udp);
        });
    }
}

/// As firewall managers do. The daemon is halted, so that there is a while
/// without a table to look at.
#[test]
fn a_flushed_ruleset_comes_back_and_until_then_nothing_is_leased() {
    Scene::with(lab(), Setup::VERIFIED, SHORT, &[]).case(|scene| {
        scene.warm_up();
        let node2 = &scene.lab.node2;
        let pid = Pid::from_raw(scene.daemon2.pid().unwrap().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        node2.netns.exec("nft", &["flush", "ruleset"]).unwrap();
        let before = Counters::of(&scene.daemon2);
        let (udp, to) = talk(scene, Protocol::Udp, PORT);
        let (tcp, _) = talk(scene, Protocol::Tcp, PORT);
        let all_answer = || assert!(udp.wait_for(100, SOON) && tcp.wait_for(100, SOON));
        all_answer();
        let moved = before.moved(&scene.daemon2);
        for reason in [Reason::HostLeaseGranted, Reason::GrantGiven, Reason::PodEncapsulated] {
            assert_eq!(moved.get(&reason), None, "{moved:?}");
        }
        kill(pid, Signal::SIGCONT).unwrap();
        for talk in [&udp, &tcp] {
            wait_leased_at_client(&scene.daemon2, talk.client, to);
        }
        assert!(has_table(node2));
        // By the kernel's word, not only when everything is compared again.
        let log = scene.daemon2.log();
        for _ in 0..3 {
            let start = std::time::Instant::now();
            node2.netns.exec("nft", &["flush", "ruleset"]).unwrap();
            until("the table", SOON, || has_table(node2).then_some(()));
            println!("back after {:?}", start.elapsed());
        }
        assert!(scene.daemon2.log().len() > log.len(), "it says so");
        all_answer();
        drop((udp, tcp));
        scene.assert_nothing_plain();
    });
}

/// What another program does to the table while no daemon runs does not pass for ours, whatever the
/// table's comment says; a table that was not touched is not made again.
#[test]
fn a_table_that_was_changed_while_no_daemon_ran_is_made_anew() {
    let exclude = "leases: {exclude: [10.20.42.31/32]}\n";
    let mut scene = Scene::with(lab(), Setup::VERIFIED, exclude, &[]);
    let node2 = scene.lab.node2.clone();
    let table = || node2.netns.exec("nft", &["-a", "list", "table", "ip", "tunless"]).unwrap();
    let contents = || node2.netns.exec("nft", &["list", "table", "ip", "tunless"]).unwrap();
    let (as_made, untouched) = (contents(), table());
    assert!(as_made.contains("10.20.42.31"), "{as_made}");
    scene.daemon2.kill9().unwrap();
    scene.daemon2.restart().unwrap();
    assert_eq!(table(), untouched, "even its handles are as they were");

    let change_rule = || {
        // Its comment stays, and so does the number of rules.
        let line = untouched.lines().find(|line| line.contains("ct state established")).unwrap();
        let handle = line.rsplit(' ').next().unwrap();
        let rule = "meta mark set meta mark | 0x1000".split(' ');
        let words = ["replace", "rule", "ip", "tunless", "judge", "handle", handle];
        let words: Vec<&str> = words.into_iter().chain(rule).collect();
        node2.netns.exec("nft", &words).unwrap();
    };
    let flush_set = || {
        node2.netns.exec("nft", &["flush", "set", "ip", "tunless", "unleased"]).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 2] = [("a rule", &change_rule), ("the set", &flush_set)];
    for (what, change) in changes {
        scene.daemon2.terminate().unwrap();
        change();
        assert_ne!(contents(), as_made, "{what} is another");
        scene.daemon2.restart().unwrap();
        assert_eq!(contents(), as_made, "{what} is as it was");
    }
    scene.finish();
}

/// The kernel forgets neighbours that it does not see in use, and leases hide their use.
#[test]
fn a_next_hop_that_is_forgotten_and_found_again_ends_no_lease() {
    /// How long it is watched for before it is made to happen again.
    const GLANCE: Duration = Duration::from_secs(1);
    Scene::with(lab(), Setup::VERIFIED, "leases: {seconds: 9}\n", &[]).case(|scene| {
        scene.warm_up();
        let (perf, sit) = scene.pods();
        let (talk, to) = talk(scene, Protocol::Udp, PORT);
        wait_leased_at_client(&scene.daemon2, talk.client, to);
        let before = Counters::of(&scene.daemon2);
        let node2 = &scene.lab.node2;
        let has_mac = |is_known: bool, timeout| {
            let is_it = |nodes: &serde_json::Value| {
                nodes["items"][0]["next_hop_mac"].is_string() == is_known
            };
            scene.daemon2.wait_json(&["nodes", "list"], timeout, is_it)
        };
        for _ in 0..3 {
            // A lease's renewal, or a question of the router's, finds it again at any moment.
            until("the next hop is forgotten", SOON, || {
                node2.netns.ip("neigh flush dev eth0").unwrap();
                has_mac(false, GLANCE).ok()
            });
            // Without a lease, so by way of the kernel's neighbours.
            assert_answered(&perf.netns, sit.ip);
            has_mac(true, SOON).unwrap();
        }
        assert!(talk.wait_for(100, SOON));
        let moved = before.moved(&scene.daemon2);
        for reason in [Reason::PodLeaseOutdated, Reason::DecapLeaseOutdatedToStack] {
            assert_eq!(moved.get(&reason), None, "{moved:?}");
        }
        before.assert_nothing_dropped(&scene.daemon2);
        drop(talk);
        scene.assert_nothing_plain();
    });
}

#[test]
fn sysctls_are_set_guarded_reported_and_restored() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    // Some as they are by default, some as an operator may have set them: each is restored.
    let wanted = ["0", "1", "77", "300"];
    for (name, value) in SYSCTLS.iter().zip(&wanted) {
        node2.netns.set_sysctl(&format!("netfilter/{name}"), value).unwrap();
    }
    let config = |setup: Setup| setup.config(&node2, &node1, "");
    let daemon = Daemon::start_with(&node2, &config(Setup::VERIFIED), &HASTY).unwrap();
    assert_eq!(sysctls(&node2), RELAXED);
    assert!(has_table(&node2));
    let status = daemon.cli_json(&["status"]).unwrap();
    assert_eq!(
        status["sysctls"],
        json!({SYSCTLS[0]: 1, SYSCTLS[1]: 1, SYSCTLS[2]: 432_000, SYSCTLS[3]: 432_000})
    );
    let text = daemon.cli(&["status"]).unwrap().stdout;
    for (name, value) in SYSCTLS.iter().zip(RELAXED) {
        assert!(text.contains(&format!("{name} = {value}")), "{text}");
    }

    daemon.rewrite_config(&config(Setup::OFF)).unwrap();
    until("off: nothing is marked", SOON, || (!has_table(&node2)).then_some(()));
    // Connections that were leased would be INVALID, taken strictly.
    assert_eq!(sysctls(&node2), RELAXED);
    daemon.rewrite_config(&config(Setup::VERIFIED)).unwrap();
    until("on again", SOON, || has_table(&node2).then_some(()));
    assert_eq!(sysctls(&node2), RELAXED);
    daemon.finish().unwrap();
    assert_eq!(
        (sysctls(&node2), has_table(&node2)),
        (wanted.map(str::to_owned), false),
        "detached"
    );

    for (name, value) in SYSCTLS.iter().zip(STRICT) {
        node2.netns.set_sysctl(&format!("netfilter/{name}"), value).unwrap();
    }
    let daemon = Daemon::start_with(&node2, &config(Setup::VERIFIED), &HASTY).unwrap();
    for (name, value) in SYSCTLS.iter().zip(STRICT) {
        node2.netns.set_sysctl(&format!("netfilter/{name}"), value).unwrap();
        until("it is put back", SOON, || (sysctls(&node2) == RELAXED).then_some(()));
    }
    assert!(daemon.log().contains("nf_conntrack_tcp_be_liberal was changed to 0"));

    daemon.finish().unwrap();
    assert_eq!(
        (sysctls(&node2), has_table(&node2)),
        (STRICT.map(str::to_owned), false),
        "detached"
    );
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// The address is the same, the interface is not: what the old pod was leased
/// does not lead to the new one, which may be sent nothing.
#[test]
fn a_new_pod_gets_nothing_that_was_leased_to_the_old() {
    Scene::each_of(&Setup::BOTH_VERIFIED, &lab(), |scene| {
        scene.warm_up();
        let (node2, sit) = (&scene.lab.node2, scene.lab.sit());
        // BIRD's: between two pods the address must not lead out by the default route.
        node2.netns.ip(&format!("route add blackhole {}", node2.block)).unwrap();
        let address = Lab::pod_ip(node2, 40);
        let old = node2.add_pod("old", address).unwrap();
        let to = SocketAddrV4::new(address, PORT);
        let talk = Conversation::start(Protocol::Udp, &sit.netns, to, &old.netns, PORT).unwrap();
        wait_leased_at_client(&scene.daemon1, talk.client, to);
        wait_leased_at_server(&scene.daemon2, talk.client, to);

        // The rules are there before the pod is.
        let mut denied = Endpoint::allowing(scene.lab.perf(), vec![Allow::ALL]);
        node2.remove_pod(&old).unwrap();
        conntrack::delete(&node2.netns, &format!("-d {address}")).unwrap();
        enforce(&node2.netns, std::slice::from_ref(&denied)).unwrap();
        let new = node2.add_pod("new", address).unwrap();
        let arrived = Capture::start_filtered(&new.netns, "eth0", move |frame| {
            frame.outer().is_some_and(|(ip, _)| ip.destination == address)
        })
        .unwrap();
        let before = Counters::of(&scene.daemon2);
        denied = Endpoint::allowing(&new, Vec::new());
        enforce(&node2.netns, &[Endpoint::open(scene.lab.perf()), denied]).unwrap();
        // It still sends, to nobody.
        until("a hundred packets that the stack judges", SOON, || {
            let moved = before.moved(&scene.daemon2);
            let judged = [
                Reason::DecapNoLeaseToStack,
                Reason::DecapLeaseOutdatedToStack,
                Reason::DecapLeaseExpiredToStack,
            ];
            let judged: u64 = judged.iter().filter_map(|reason| moved.get(reason)).sum();
            (judged >= 100).then_some(())
        });
        endpoint_of(&scene.daemon2, &new);
        assert_unleased(&scene.daemon2, address);
        assert_eq!(arrived.stop().unwrap(), Vec::new());
        // Now it may.
        enforce(&node2.netns, &[Endpoint::open(scene.lab.perf()), Endpoint::open(&new)]).unwrap();
        assert_answered(&new.netns, sit.ip);
        drop(talk);
        scene.assert_nothing_plain();
        node2.remove_pod(&new).unwrap();
        node2.netns.ip(&format!("route del blackhole {}", node2.block)).unwrap();
    });
}

/// The file that 0.1 restores sysctls from: it writes each name that it finds there.
fn file_of_0_1(node: &Node) -> PathBuf {
    node.run_file("sysctls")
}

/// Values from before are recorded where 0.1 finds them, too. Where both records are lost, the
/// operator has to read that the sysctls stay.
#[test]
fn detach_names_sysctls_whose_old_values_are_lost() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    let node2 = scene.lab.node2.clone();
    assert_eq!(sysctls(&node2), RELAXED);
    let recorded = fs::read_to_string(file_of_0_1(&node2)).unwrap();
    let recorded: BTreeMap<String, u32> = serde_json::from_str(&recorded).unwrap();
    for (name, before) in SYSCTLS.iter().zip(STRICT) {
        assert_eq!(recorded[*name].to_string(), before, "{name}");
    }
    scene.daemon2.terminate().unwrap();
    fs::remove_file(node2.bpffs.join("memory")).unwrap();
    fs::remove_file(file_of_0_1(&node2)).unwrap();
    let detached = scene.daemon2.cli(&["detach"]).unwrap();
    assert!(detached.success(), "{}", detached.stderr);
    for (name, default) in SYSCTLS.iter().zip(STRICT) {
        let command = format!("sysctl -w net.netfilter.{name}={default}");
        assert!(detached.stderr.contains(&command), "no `{command}` in {}", detached.stderr);
    }
    assert_eq!(sysctls(&node2), RELAXED);
    // Once more: nothing of ours is there, and others may have set them.
    let again = scene.daemon2.cli(&["detach"]).unwrap();
    assert!(!again.stderr.contains("sysctl"), "{}", again.stderr);
    scene.finish();
}

/// Each node decides for itself.
#[test]
fn one_node_leases_and_the_other_does_not() {
    for (setup, other) in [(Setup::VERIFIED, Setup::OFF), (Setup::OFF_XDP, Setup::VERIFIED_XDP)] {
        let lab = lab().build().unwrap();
        let daemon1 = Daemon::start(&lab.node1, &setup.config(&lab.node1, &lab.node2, "")).unwrap();
        let daemon2 = Daemon::start(&lab.node2, &other.config(&lab.node2, &lab.node1, "")).unwrap();
        Scene { daemon1, daemon2, lab, setup }.case(|scene| {
            scene.warm_up();
            let (perf, sit) = scene.pods();
            assert_eq!(assert_answered(&sit.netns, perf.ip).ttl(), Some(62));
            scene.police(&Allow::port(PORT));
            let to = SocketAddrV4::new(sit.ip, PORT);
            for server_sends in [false, true] {
                let options = tcp::Options { mebibytes: 64, server_sends, ..Default::default() };
                tcp::bulk(&perf.netns, to, &sit.netns, PORT, &options).unwrap();
            }
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let (talk, to) = talk(scene, protocol, PORT);
                if setup == Setup::OFF_XDP {
                    wait_leased_at_client(&scene.daemon2, talk.client, to);
                    assert_unleased(&scene.daemon1, sit.ip);
                } else {
                    wait_leased_at_server(&scene.daemon1, talk.client, to);
                    assert_unleased(&scene.daemon2, sit.ip);
                }
                assert!(talk.wait_for(100, SOON));
            }
            assert!(!answers(&perf.netns, sit.ip), "pings are not allowed");
            scene.police(&[Allow::ALL]);
            assert_lossless(stream_between(perf, sit, PORT));
            scene.assert_nothing_plain();
        });
    }
}
