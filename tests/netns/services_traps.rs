//! Where leases of Services could go wrong: each case fails without one of their defences.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use dataplane_common::Reason;
use tunless_lab::{
    Daemon, Lab,
    capture::Capture,
    conntrack,
    felix::{Allow, Endpoint, deny_first, enforce},
    frame::{Frame, Ip},
    service::{Protocol, Service, kube_proxy},
    traffic::{conversation::Conversation, crowd, flood, flood::Flood, tcp, udp},
};
use tunless_tests::scene::{
    Counters, SOON, Scene, Setup,
    leased::{
        leases, wait_lapsed, wait_leased_at_client, wait_leased_at_server, wait_leased_by_service,
    },
    until,
};

const PORT: u16 = 7000;
const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 7), 53);
const LEASE: Duration = Duration::from_secs(1);
const CONFIG: &str = "leases: {services: true, seconds: 1}\n";

fn scene(setup: Setup, more: &str) -> Scene {
    Scene::with(Lab::new().fabric_filter(true), setup, more, &[])
}

/// Node 2 translates the Service to these ports of demo-hello-sit.
fn serve(scene: &Scene, ports: &[u16]) {
    let sit = scene.lab.sit().ip;
    let services = BOTH.map(|protocol| Service {
        name: format!("default/{protocol:?}").to_lowercase(),
        protocol,
        address: ADDRESS,
        endpoints: ports.iter().map(|port| SocketAddrV4::new(sit, *port)).collect(),
    });
    let node2 = &scene.lab.node2.netns;
    kube_proxy(node2, &services).unwrap();
    // Once its rules are gone, what a closed socket still sends would leave by the default route.
    node2.ip(&format!("route replace blackhole {}/32", ADDRESS.ip())).unwrap();
}

/// From demo-hello-perf to the Service; leased on both nodes.
fn talk(scene: &Scene, protocol: Protocol) -> Conversation {
    let (perf, sit) = scene.pods();
    let behind = SocketAddrV4::new(sit.ip, PORT);
    let talk = Conversation::start(protocol, &perf.netns, ADDRESS, &sit.netns, PORT).unwrap();
    wait_leased_by_service(&scene.daemon2, talk.client, ADDRESS, behind);
    wait_leased_at_server(&scene.daemon1, talk.client, behind);
    assert!(talk.wait_for(20, SOON));
    talk
}

/// What a policy forbids ends within a lease, on whichever node it is. `forbid` returns the daemon of
/// that node, and where a lease there leads.
fn cut_by(setup: Setup, forbid: impl Fn(&Scene) -> (&Daemon, SocketAddrV4)) {
    scene(setup, CONFIG).case(|scene| {
        scene.police(&Allow::port(PORT));
        serve(scene, &[PORT]);
        let talks = BOTH.map(|protocol| talk(scene, protocol));
        let (daemon, to) = forbid(scene);
        for talk in &talks {
            wait_lapsed(daemon, |lease| lease.is(talk.client, to));
            assert!(talk.wait_for_silence(2 * LEASE, SOON), "{setup:?}: it is not cut");
        }
        scene.assert_nothing_plain();
        drop(talks);
    });
}

#[test]
fn a_denial_at_the_client_or_at_the_server_cuts_a_service() {
    cut_by(Setup::VERIFIED, |scene| {
        let (node, sit) = (&scene.lab.node1.netns, scene.lab.sit());
        let denied = Endpoint { egress: Vec::new(), ..Endpoint::allowing(sit, Vec::new()) };
        enforce(node, &[denied]).unwrap();
        conntrack::delete(node, &format!("-d {}", sit.ip)).unwrap();
        (&scene.daemon1, SocketAddrV4::new(sit.ip, PORT))
    });
    cut_by(Setup::VERIFIED_XDP, |scene| {
        let (node, perf) = (&scene.lab.node2.netns, scene.lab.perf());
        let denied = Endpoint { ingress: Vec::new(), ..Endpoint::sending(perf, Vec::new()) };
        enforce(node, &[denied]).unwrap();
        conntrack::delete(node, &format!("-d {}", ADDRESS.ip())).unwrap();
        (&scene.daemon2, ADDRESS)
    });
    cut_by(Setup::VERIFIED, |scene| {
        let sit = scene.lab.sit();
        deny_first(sit, scene.lab.perf().ip).unwrap();
        (&scene.daemon1, SocketAddrV4::new(sit.ip, PORT))
    });
}

#[test]
fn a_denied_service_is_never_leased() {
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT + 1));
        serve(scene, &[PORT]);
        let (perf, sit) = scene.pods();
        let options = udp::Options { timeout: Duration::from_millis(300), ..Default::default() };
        for _ in 0..5 {
            udp::exchange(&perf.netns, ADDRESS, &sit.netns, PORT, &options).unwrap_err();
        }
        assert!(!leases(&scene.daemon2).iter().any(|lease| lease.touches(*ADDRESS.ip())));
        assert!(!leases(&scene.daemon1).iter().any(|lease| lease.touches(perf.ip)));
    });
}

/// FIN and the ACK behind it meet conntrack on the node that translates, and the last ACK gets the
/// closed connection no new lease.
#[test]
fn closed_connections_leave_no_lease_and_end_in_time_wait() {
    scene(Setup::VERIFIED_XDP, "leases: {services: true, seconds: 9}\n").case(|scene| {
        scene.police(&Allow::port(PORT));
        serve(scene, &[PORT]);
        for _ in 0..3 {
            let talk = talk(scene, Protocol::Tcp);
            let client = talk.client;
            talk.close().unwrap();
            until("TIME_WAIT", SOON, || {
                let entries = conntrack::list(&scene.lab.node2.netns).unwrap();
                let entry = entries.into_iter().find(|entry| entry.source == client)?;
                (entry.state.as_deref() == Some("TIME_WAIT")).then_some(())
            });
            let left = leases(&scene.daemon2).into_iter().find(|lease| lease.ends_at(client));
            assert_eq!(left, None);
        }
        scene.assert_nothing_plain();
    });
}

/// The same port opens the next connection, to another pod behind the Service, within a lease.
#[test]
fn the_next_connection_of_a_port_goes_to_the_pod_it_is_translated_to() {
    scene(Setup::VERIFIED, "leases: {services: true, seconds: 9}\n").case(|scene| {
        scene.police(&[Allow::ALL]);
        let (perf, sit) = scene.pods();
        for round in 0..10 {
            let port = PORT + round % 2;
            serve(scene, &[port]);
            // Without it conntrack would take the SYN for one of the connection before.
            conntrack::delete(&scene.lab.node2.netns, "-p tcp --orig-port-src 5556").unwrap();
            tcp_exchange(perf, sit, port);
        }
        scene.assert_nothing_plain();
    });
}

/// Twenty requests and answers from port 5556, then a reset, so that the port is free at once.
fn tcp_exchange(perf: &tunless_lab::Pod, sit: &tunless_lab::Pod, port: u16) {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener},
    };
    let listener = sit
        .netns
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Into::into))
        .unwrap();
    let client = perf
        .netns
        .run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((perf.ip, 5556)).into())?;
            socket.connect_timeout(&SocketAddr::from(ADDRESS).into(), SOON)?;
            socket.set_linger(Some(Duration::ZERO))?;
            Ok(socket)
        })
        .unwrap();
    let mut client = std::net::TcpStream::from(client);
    let (mut server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
        end.set_read_timeout(Some(SOON)).unwrap();
    }
    let mut heard = [0; 7];
    for _ in 0..20 {
        client.write_all(b"request").unwrap();
        server.read_exact(&mut heard).unwrap();
        server.write_all(b"answers").unwrap();
        client.read_exact(&mut heard).unwrap();
    }
}

/// More flows to one Service than there is room for leases: the memory of one becomes another's all
/// the time, and each answer is still the right one. Closed connections leave no lease behind.
#[test]
fn many_short_connections_to_a_service_leave_no_lease_behind() {
    scene(Setup::VERIFIED, "leases: {services: true, size: 1024}\n").case(|scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT));
        serve(scene, &[PORT]);
        let (perf, sit) = scene.pods();
        let before = Counters::of(&scene.daemon2);
        crowd::connections(&perf.netns, ADDRESS, &sit.netns, PORT, 2000).unwrap();
        until("no lease", SOON, || {
            let leases = leases(&scene.daemon2);
            leases.iter().all(|lease| !lease.touches(perf.ip)).then_some(())
        });
        before.assert_nothing_dropped(&scene.daemon2);
        scene.assert_nothing_plain();
    });
}

/// Past 2 GiB conntrack takes a reset for a stray.
#[test]
fn a_reset_after_three_gibibytes_to_a_service_arrives() {
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.warm_up();
        scene.police(&Allow::port(PORT));
        serve(scene, &[PORT]);
        let (perf, sit) = scene.pods();
        let flood = Flood::start(&perf.netns, ADDRESS, &sit.netns, PORT).unwrap();
        until("3 GiB", 10 * SOON, || (flood.received() > 3 << 30).then_some(()));
        let report = flood.reset().unwrap();
        assert_eq!(report.end, flood::End::Reset, "{report:?}");
        scene.assert_nothing_plain();
    });
}

/// Bulk both ways, with offloads, without, and with what GRO only lists: its content arrives right, and
/// each IP header that the pod sees has the right checksum; without offloads so has each segment of TCP and
/// UDP, in the pod and between the nodes.
#[test]
fn bulk_by_a_service_is_right_with_every_offload() {
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene, &[PORT]);
        let (perf, sit) = scene.pods();
        for (what, interface, offloads) in [
            ("as it is", "eth0", "gro on"),
            ("GRO that lists", "eth0", "rx-gro-list on"),
            ("no GRO", "eth0", "gro off"),
            ("no offloads", "cali", "tso off gso off tx off"),
        ] {
            let is_whole = interface == "cali";
            if is_whole {
                set_offloads(scene, "eth0", "gro off");
            }
            set_offloads(scene, interface, offloads);
            let before = Counters::of(&scene.daemon2);
            let watch = Capture::start(&perf.netns, "eth0").unwrap();
            let wire = Capture::start(&scene.lab.node2.netns, "eth0").unwrap();
            // On a busy machine the first transfer may be over before the daemon knows the pod's MAC.
            until(&format!("{what}: both directions are leased"), SOON, || {
                for server_sends in [false, true] {
                    let options = tcp::Options { server_sends, ..Default::default() };
                    let report =
                        tcp::bulk(&perf.netns, ADDRESS, &sit.netns, PORT, &options).unwrap();
                    assert_eq!(report.bytes, 8 << 20, "{what}");
                }
                let moved = before.moved(&scene.daemon2);
                let reasons = [Reason::PodServiceEncapsulated, Reason::DecapServiceToPod];
                reasons.iter().all(|reason| moved.contains_key(reason)).then_some(())
            });
            udp::gso(&perf.netns, ADDRESS, &sit.netns, PORT, (1000, 20), SOON).unwrap();
            let frames = watch.stop().unwrap();
            let wrong =
                frames.iter().find(|frame| frame.outer().is_some_and(|(ip, _)| !ip.checksum_ok));
            assert!(wrong.is_none(), "{what}: {wrong:?}");
            let between = wire.stop().unwrap();
            if is_whole {
                let in_pod = assert_segments_right(frames.iter().filter_map(Frame::outer));
                let on_wire = assert_segments_right(between.iter().filter_map(Frame::inner));
                assert!(
                    in_pod > 11_000 && on_wire > 11_000,
                    "{in_pod} in the pod, {on_wire} outside"
                );
            }
            set_offloads(scene, "eth0", "gro on rx-gro-list off");
            set_offloads(scene, "cali", "tso on gso on tx on");
        }
        scene.assert_nothing_plain();
    });
}

/// Returns how many segments of TCP and UDP there are, all with the right checksum.
fn assert_segments_right<'a>(packets: impl Iterator<Item = (Ip, &'a [u8])>) -> usize {
    let judged = packets.filter_map(|(ip, payload)| Some((ip, ip.is_transport_right(payload)?)));
    judged.map(|(ip, is_right)| assert!(is_right, "{ip:?}")).count()
}

/// On both nodes: their NICs, or their pods' own interfaces.
fn set_offloads(scene: &Scene, interface: &str, offloads: &str) {
    let (perf, sit) = scene.pods();
    let words: Vec<&str> = ["-K", "eth0"].into_iter().chain(offloads.split(' ')).collect();
    let places = match interface {
        "eth0" => [&scene.lab.node1.netns, &scene.lab.node2.netns],
        _ => [&perf.netns, &sit.netns],
    };
    for place in places {
        place.exec("ethtool", &words).unwrap();
    }
}

/// The Service has two pods: should conntrack forget a silent connection, it would roll again in the
/// middle, and the other pod knows nothing of it.
#[test]
fn a_silent_connection_to_one_of_two_pods_goes_on() {
    const SCALED: &str = "3";
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene, &[PORT]);
        for timer in ["unacknowledged", "max_retrans"] {
            let sysctl = format!("netfilter/nf_conntrack_tcp_timeout_{timer}");
            for node in scene.lab.nodes() {
                node.netns.set_sysctl(&sysctl, SCALED).unwrap();
            }
        }
        let talks: Vec<_> = (0..4).map(|_| talk_to_any(scene)).collect();
        serve(scene, &[PORT + 1, PORT]);
        std::thread::sleep(Duration::from_secs(4));
        for talk in &talks {
            assert!(talk.wait_for(20, SOON), "the connection is broken");
        }
    });
}

fn talk_to_any(scene: &Scene) -> Conversation {
    talk(scene, Protocol::Tcp)
}

/// What stands against leases of Services stands against no others, and is named.
#[test]
fn timers_that_tell_nothing_withhold_leases_of_services() {
    scene(Setup::VERIFIED, CONFIG).case(|scene| {
        scene.police(&[Allow::ALL]);
        serve(scene, &[PORT]);
        let before = talk(scene, Protocol::Tcp);
        let node2 = &scene.lab.node2.netns;
        let established = "netfilter/nf_conntrack_tcp_timeout_established";
        let usual = node2.sysctl(established).unwrap();
        node2.set_sysctl(established, "100").unwrap();
        let withheld = || {
            let status = scene.daemon2.cli_json(&["status"]).unwrap();
            let problems = status["problems"].as_array().unwrap().clone();
            problems.into_iter().find(|problem| problem["code"] == "services-withheld")
        };
        let problem = until("the problem", SOON, withheld).to_string();
        for said in ["nf_conntrack_tcp_timeout_established (100 s)", "leases.services: false"] {
            assert!(problem.contains(said), "no {said} in {problem}");
        }
        until("no lease of a Service", SOON, || {
            let leases = leases(&scene.daemon2);
            leases.iter().all(|lease| lease.translated_to.is_none()).then_some(())
        });
        assert!(before.wait_for(20, SOON), "it takes the stack path");
        drop(before);
        // Connections to the pod itself are leased all the same, though every entry looks as if it closed.
        let (perf, sit) = scene.pods();
        let pod = SocketAddrV4::new(sit.ip, PORT + 1);
        let plain =
            Conversation::start(Protocol::Tcp, &perf.netns, pod, &sit.netns, PORT + 1).unwrap();
        wait_leased_at_client(&scene.daemon2, plain.client, pod);
        assert!(plain.wait_for(20, SOON));
        drop(plain);
        node2.set_sysctl(established, &usual).unwrap();
        until("no problem", SOON, || withheld().is_none().then_some(()));
        drop(talk(scene, Protocol::Tcp));
    });
}
