//! What the command line says of leases.

use std::net::SocketAddrV4;

use tunless_lab::{Lab, Node};
use tunless_tests::scene::{
    SOON, Scene, Setup, assert_answered, assert_lossless,
    leased::{PORT, assert_all_answer, assert_unleased, leases},
    stream_between, until,
};

#[test]
fn the_command_line_lists_and_flushes_leases() {
    Scene::new(Lab::new().fabric_filter(true), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let daemon = &scene.daemon2;
        let empty = daemon.cli(&["leases", "list"]).unwrap();
        assert_eq!(empty.status, Some(0), "{}", empty.stderr);
        daemon.cli(&["counters", "flush"]).unwrap();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        assert_all_answer(&talks);

        // Each look must find all four leases: one may just be over, and its next packet on the way.
        let (answer, table, status, text) = until("four leases in each list", SOON, || {
            let answer = daemon.cli_json(&["leases", "list"]).unwrap();
            let table = daemon.cli(&["leases", "list"]).unwrap().stdout;
            let status = daemon.cli_json(&["status"]).unwrap();
            let text = daemon.cli(&["status"]).unwrap().stdout;
            let shows_four = answer["items"].as_array().unwrap().len() == 4
                && table.lines().count() == 5
                && status["leased_flows"] == 4
                && text.contains("4 flows leased");
            shows_four.then_some((answer, table, status, text))
        });
        let items = answer["items"].as_array().unwrap();
        let (perf, sit) = scene.pods();
        let (udp, cali) = (talks[0].client.to_string(), perf.cali.as_str());
        let item = items.iter().find(|item| item["source"] == udp.as_str()).unwrap();
        let server = format!("{}:{PORT}", sit.ip);
        for (key, value) in [
            ("protocol", "udp"),
            ("destination", server.as_str()),
            ("direction", "encap"),
            ("node", &scene.lab.node1.ip.to_string()),
            ("interface", cali),
        ] {
            assert_eq!(item[key], value, "{key} of {item}");
        }
        let left = item["expires_in_seconds"].as_f64().unwrap();
        assert!(left > 0.0 && left <= 5.0, "{item}");
        // Whole packets of 64 bytes of data, 8 of UDP, 20 of IP.
        assert_eq!(item["bytes"].as_u64().unwrap(), item["packets"].as_u64().unwrap() * 92);
        for said in ["PROTOCOL", "EXPIRES IN", "PACKETS", &udp, &server, "encap", "decap", cali] {
            assert!(table.contains(said), "no {said} in {table}");
        }
        assert_eq!(status["fastpath"], "verified");
        for direction in ["encap", "decap"] {
            let share = status["fastpath_share"][direction].as_f64().unwrap();
            assert!(share > 0.5 && share < 1.0, "{status}");
        }
        assert_eq!(status["sysctls"].as_object().unwrap().len(), 4);
        assert!(text.contains("fast path verified"), "{text}");

        drop(talks);
        let stream = stream_between(perf, sit, 5010);
        let flushed = daemon.cli_json(&["leases", "flush"]).unwrap();
        assert!(flushed["flushed"].as_u64().unwrap() >= 2, "{flushed}");
        assert_unleased(daemon, perf.ip);
        let again = daemon.cli(&["leases", "flush"]).unwrap();
        assert!(again.stderr.contains("0 leases ended"), "{}", again.stderr);
        assert_lossless(stream);
        assert_answered(&perf.netns, sit.ip);
        scene.assert_nothing_plain();
    });
}

/// Packets of a client that conntrack has counted (`nf_conntrack_acct`).
fn counted(node: &Node, client: SocketAddrV4) -> u64 {
    let port = client.port().to_string();
    let args = ["-L", "-p", "udp", "--src", &client.ip().to_string(), "--sport", &port];
    let text = node.netns.exec("conntrack", &args).unwrap();
    // Of the two counters of an entry the first is of its original direction.
    let packets = text.split_whitespace().find_map(|word| word.strip_prefix("packets="));
    packets.and_then(|packets| packets.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// What counts by conntrack misses what goes by leases, `leases list` has it, and an excluded pod is
/// seen whole.
#[test]
fn what_conntrack_misses_is_in_the_list_and_excluded_pods_are_seen_whole() {
    Scene::new(Lab::new().fabric_filter(true), Setup::VERIFIED).case(|scene| {
        let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
        node2.netns.set_sysctl("netfilter/nf_conntrack_acct", "1").unwrap();
        scene.warm_up();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        let [udp, _] = &talks;
        let before = counted(node2, udp.client);
        assert!(udp.wait_for(500, SOON));
        let seen = counted(node2, udp.client) - before;
        assert!(seen < 100, "conntrack counted {seen} of 500 packets and more");
        let by_lease = leases(&scene.daemon2).into_iter().find(|it| it.source == udp.client);
        assert!(by_lease.is_some_and(|lease| lease.packets >= 400));

        let exclude = format!("leases: {{exclude: [{}/32]}}\n", udp.client.ip());
        scene.daemon2.rewrite_config(&scene.setup.config(node2, node1, &exclude)).unwrap();
        until("no lease is left", SOON, || leases(&scene.daemon2).is_empty().then_some(()));
        let before = counted(node2, udp.client);
        assert!(udp.wait_for(200, SOON));
        let seen = counted(node2, udp.client) - before;
        assert!(seen >= 199, "conntrack counted {seen} of 200 packets and more");
        drop(talks);
        scene.daemon2.rewrite_config(&scene.setup.config(node2, node1, "")).unwrap();
        scene.assert_nothing_plain();
    });
}
