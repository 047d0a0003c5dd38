//! Calico's limits on single pods: read from Felix's chains, and kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use dataplane_user::{daemon::observe::limits, kernel::Kernel, netfilter::limits::Limits};
use tunless_lab::{
    Lab, LabBuilder, Netns, Pod,
    felix::{Allow, Endpoint, enforce},
    qos::{self, Way},
    traffic::stream::{Options, Stream},
};
use tunless_tests::scene::{
    SOON, Scene, Setup, in_time,
    leased::{PORT, assert_all_answer, assert_unleased, leases},
    until,
};

/// As `iptables-save` and `nft list ruleset` print Felix's rules: all limits of Calico, and a pod
/// without, whose rules look similar.
const IPTABLES: &str = include_str!("qos/felix.iptables");
const NFT: &str = include_str!("qos/felix.nft");

/// A lease ends at once with the limit, not after this time.
const LEASE: Duration = Duration::from_secs(9);
const LONG: &str = "leases: {seconds: 9}\n";

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn read(netns: &Netns) -> Limits {
    let interfaces = ["cali0both", "cali1ingress", "cali2egress", "cali3free", "cali4gone"];
    let look = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let interfaces = interfaces.map(str::to_owned).into();
            Ok(limits::look(&Kernel::connect()?, interfaces).await)
        })
    };
    netns.run(look).unwrap()
}

fn assert_found(found: &Limits, from: &str) {
    let shown: BTreeMap<&str, Vec<String>> = found
        .by_interface
        .iter()
        .map(|(name, limits)| (name.as_str(), limits.iter().map(ToString::to_string).collect()))
        .collect();
    let expected = [
        ("cali0both", &["ingress packet rate", "egress connections"][..]),
        ("cali1ingress", &["ingress connections"]),
        ("cali2egress", &["egress packet rate"]),
    ];
    let expected: BTreeMap<&str, Vec<String>> = expected
        .into_iter()
        .map(|(name, limits)| (name, limits.iter().map(ToString::to_string).collect()))
        .collect();
    assert_eq!(shown, expected, "{from}");
    let remarked = ["10.20.42.14/32", "10.20.42.15/32"].map(|net| net.parse().unwrap());
    assert_eq!(found.remarked, remarked.into(), "{from}");
    assert_eq!(found.unreadable, BTreeSet::new(), "{from}");
}

#[test]
fn limits_are_found_in_each_of_felixs_modes() {
    let lab = Lab::new().default_pods(false).build().unwrap();
    let (node1, node2) = (&lab.node1.netns, &lab.node2.netns);
    let empty = read(node1);
    assert!(empty.by_interface.is_empty() && empty.remarked.is_empty(), "{empty:?}");
    node1.exec_with_input("iptables-nft-restore", &[], IPTABLES).unwrap();
    assert_found(&read(node1), "iptables-nft");
    node2.exec_with_input("nft", &["-f", "-"], NFT).unwrap();
    assert_found(&read(node2), "nft");
    let mut saved = Limits::default();
    saved.add_saved(IPTABLES);
    assert_found(&saved, "iptables-legacy");

    // A set of sources is not taken apart, and not passed over in silence either.
    let rule = "add rule ip calico mangle-cali-egress-dscp ip saddr { 10.0.0.1, 10.0.0.2 } ip dscp set cs1";
    node2.exec("nft", &[rule]).unwrap();
    assert!(read(node2).unreadable.first().unwrap().contains("mangle-cali-egress-dscp"));
    // Prefixes of any length.
    let flush = "flush chain ip calico mangle-cali-egress-dscp";
    let rules = ["10.0.0.0/8", "10.1.2.0/23"].map(|net| {
        format!("add rule ip calico mangle-cali-egress-dscp ip saddr {net} ip dscp set cs1")
    });
    node2.exec("nft", &[flush]).unwrap();
    rules.iter().for_each(|rule| drop(node2.exec("nft", &[rule]).unwrap()));
    let expected = ["10.0.0.0/8", "10.1.2.0/23"].map(|net| net.parse().unwrap());
    assert_eq!(read(node2).remarked, expected.into());
    // Of a running Felix's mode, not by name: the same chain names elsewhere are another program's.
    node2.exec("nft", &["rename chain ip calico filter-cali-FORWARD other"]).unwrap();
    assert_eq!(read(node2).by_interface, BTreeMap::new());
}

/// Floods the pod, and checks that no more arrives than the limit lets pass.
fn assert_limited(from: &Pod, to: &Pod, port: u16, rate: u64, burst: u64) {
    let options = Options { rate: 2000, answered: true, ..Options::default() };
    let began = Instant::now();
    let stream =
        Stream::start(&from.netns, SocketAddrV4::new(to.ip, port), &to.netns, port, &options)
            .unwrap();
    assert!(stream.wait_for(2 * burst, SOON), "what is within the limit arrives");
    std::thread::sleep(Duration::from_secs(2));
    let report = stream.stop().unwrap();
    let most = rate * (began.elapsed().as_secs() + 1) + burst;
    assert!(report.received <= most, "{} arrived, {most} may", report.received);
    // In proportion: a sender that stood still makes `most` larger, but sends no more.
    assert!(report.sent > 2 * report.received, "too few were sent: {report:?}");
}

/// On either node, in either direction, in either mode of Felix: the limited pod's packets all cross
/// the rule, while other pods of that node are leased; and what is limited no more is leased again.
#[test]
fn a_packet_rate_is_kept_while_other_pods_are_leased() {
    const RATE: u64 = 100;
    const BURST: u64 = 20;
    Scene::with(lab(), Setup::VERIFIED, LONG, &[]).case(|scene| {
        scene.warm_up();
        let (node1, daemon1) = (&scene.lab.node1, &scene.daemon1);
        let (perf, sit) = scene.pods();
        let other = node1.add_pod("other", Lab::pod_ip(node1, 60)).unwrap();
        let policies = || {
            let open = [Endpoint::allowing(sit, vec![Allow::ALL]), Endpoint::open(&other)];
            enforce(&node1.netns, &open).unwrap();
            enforce(&scene.lab.node2.netns, &[Endpoint::open(perf)]).unwrap();
        };
        policies();
        for (way, is_nft) in [(Way::ToPod, false), (Way::FromPod, true)] {
            let lift = || match is_nft {
                false => policies(),
                true => qos::unlimit_by_nft(&node1.netns).unwrap(),
            };
            let talks = scene.talks();
            in_time(LEASE, |number| {
                if number > 0 {
                    lift();
                }
                scene.assert_leased(&talks);
                until("sit is leased on its own node", SOON, || {
                    leases(daemon1).iter().any(|lease| lease.touches(sit.ip)).then_some(())
                });
                match is_nft {
                    false => qos::limit_packets(sit, way, RATE, BURST).unwrap(),
                    true => qos::limit_packets_by_nft(sit, way, RATE, BURST).unwrap(),
                }
                until("its leases end", SOON, || {
                    leases(daemon1).iter().all(|lease| !lease.touches(sit.ip)).then_some(())
                });
            });
            let (from, to) = match way {
                Way::ToPod => (perf, sit),
                Way::FromPod => (sit, perf),
            };
            let port = 5000 + u16::from(is_nft);
            assert_limited(from, to, port, RATE, BURST);
            assert_unleased(daemon1, sit.ip);
            // The other node's leases pass by no rule of this one.
            assert!(leases(&scene.daemon2).iter().any(|lease| lease.touches(sit.ip)));
            let options = Options { rate: 2000, answered: true, ..Options::default() };
            let free = Stream::start(
                &perf.netns,
                SocketAddrV4::new(other.ip, 5100),
                &other.netns,
                5100,
                &options,
            )
            .unwrap();
            until("another pod of that node is leased", SOON, || {
                leases(daemon1).iter().any(|lease| lease.touches(other.ip)).then_some(())
            });
            assert!(free.wait_for(200, SOON));
            drop(free);
            let said = format!("pod {} ({}) gets no leases", sit.ip, sit.cali);
            let status = scene.daemon1.cli_json(&["status"]).unwrap();
            let problems = status["problems"].to_string();
            for said in [said.as_str(), "packet rate", "pod-unleased"] {
                assert!(problems.contains(said), "no {said} in {problems}");
            }
            assert_eq!(status["ready"], true);

            lift();
            scene.assert_leased(&talks);
            until("sit is leased again", SOON, || {
                leases(daemon1).iter().any(|lease| lease.touches(sit.ip)).then_some(())
            });
            assert_all_answer(&talks);
            let status = scene.daemon1.cli_json(&["status"]).unwrap();
            assert!(!status["problems"].to_string().contains("pod-unleased"), "{status}");
            drop(talks);
        }
        node1.remove_pod(&other).unwrap();
        scene.assert_nothing_plain();
    });
}

/// The daemon starts while the limit is there: no packet ever passes by it.
#[test]
fn a_limit_that_was_there_before_the_daemon_is_kept() {
    let mut scene = Scene::with(lab(), Setup::VERIFIED_XDP, LONG, &[]);
    scene.warm_up();
    scene.police(&[Allow::ALL]);
    let (perf, sit) = scene.pods();
    qos::limit_packets(sit, Way::ToPod, 50, 10).unwrap();
    let (perf, sit) = (perf.clone(), sit.clone());
    scene.daemon1.terminate().unwrap();
    scene.daemon1.restart().unwrap();
    assert_limited(&perf, &sit, PORT, 50, 10);
    assert_unleased(&scene.daemon1, sit.ip);
    scene.assert_nothing_plain();
    scene.finish();
}
