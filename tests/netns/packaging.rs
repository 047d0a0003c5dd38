//! The systemd unit as it is shipped: the daemon works with just the
//! capabilities it is given there.

use std::fs;

use tunless_lab::{Lab, traffic::ping};
use tunless_tests::scene::{Scene, Setup, scraped::get};

#[test]
fn the_daemon_works_with_the_capabilities_of_its_unit() {
    for setup in [Setup::OFF, Setup::TRUSTED] {
        Scene::new(Lab::new().confined(true).fabric_filter(true), setup).case(|scene| {
            let pid = scene.daemon2.pid().expect("it runs");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
            // NET_ADMIN 12, NET_RAW 13, PERFMON 38, BPF 39 (linux/capability.h).
            assert_eq!(effective.trim(), format!("{:016x}", 3u64 << 12 | 3 << 38));

            let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
            let report = ping::ping(&perf.netns, sit.ip, &ping::Options::default()).unwrap();
            assert!(report.all_answered(), "{setup:?}: {}", report.text);
            let status = scene.daemon2.cli_json(&["status"]).unwrap();
            assert_eq!(status["ready"], true, "{status}");
            assert_eq!(get(&scene.lab.node2, "/metrics").figure("tunless_maps_readable"), 1.0);
            assert!(
                !scene.daemon2.log().contains("no raw socket"),
                "path MTU discovery needs the raw socket: {}",
                scene.daemon2.log()
            );
        });
    }
}
