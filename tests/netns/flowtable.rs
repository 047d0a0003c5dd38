//! Established packets that skip `forward` and `postrouting`, as an nft flowtable has it.
//!
//! The kernel of the tests may have no flowtables. `fwd` at the ingress hook does to a packet what one
//! does (`nft_fwd_neigh_eval`, `nf_flow_offload_ip_hook`): behind TC ingress it decrements the TTL and
//! sends to the neighbour, and no rule of the stack sees it.

use std::net::SocketAddrV4;

use tunless_lab::Lab;
use tunless_tests::scene::{
    SOON, Scene, Setup,
    leased::{PORT, assert_all_answer, leases},
    until,
};

#[test]
fn what_skips_the_rules_gets_no_lease_and_flows() {
    Scene::with(Lab::new().fabric_filter(true), Setup::VERIFIED, "leases: {seconds: 1}\n", &[])
        .case(|scene| {
            scene.warm_up();
            scene.police(&tunless_lab::felix::Allow::port(PORT));
            let (perf, sit) = scene.pods();
            let node2 = &scene.lab.node2.netns;
            let talks = scene.talks();
            scene.assert_leased(&talks);
            let offload = format!(
                "table netdev skipping {{\n\
                 chain early {{ type filter hook ingress device \"{}\" priority 0; policy accept;\n\
                 ip daddr {} meta l4proto {{ tcp, udp }} fwd ip to {} device \"tunless0\"\n\
                 }}\n}}\n",
                perf.cali, sit.ip, sit.ip
            );
            node2.exec_with_input("nft", &["-f", "-"], &offload).unwrap();
            // Those of before go on as long as they were granted for.
            until("its leases lapse", SOON, || {
                let is_sent = |lease: &tunless_tests::scene::leased::Lease| {
                    lease.direction == "encap" && lease.touches(perf.ip)
                };
                (!leases(&scene.daemon2).iter().any(is_sent)).then_some(())
            });
            assert_all_answer(&talks);
            let to = SocketAddrV4::new(sit.ip, PORT);
            let sent = leases(&scene.daemon2).into_iter().filter(|lease| lease.destination == to);
            assert_eq!(sent.collect::<Vec<_>>(), Vec::new(), "nothing marks them");
            // What policies forbid at the other end stays forbidden.
            let denied = SocketAddrV4::new(sit.ip, PORT + 1);
            let socket = perf.netns.run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?)).unwrap();
            for _ in 0..10 {
                socket.send_to(b"denied", denied).unwrap();
            }
            assert!(!leases(&scene.daemon1).iter().any(|lease| lease.destination == denied));
            node2.exec("nft", &["delete table netdev skipping"]).unwrap();
            scene.assert_leased(&talks);
            assert_all_answer(&talks);
            drop(talks);
            scene.assert_nothing_plain();
        });
}
