//! Traffic between two nodes, in every setup.

use tunless_lab::{Lab, traffic::ping};
use tunless_tests::scene::{Scene, Setup};

#[test]
fn ping_between_pods_shows_two_hops() {
    for setup in Setup::ALL {
        let scene = Scene::new(Lab::new().fabric_filter(true), setup);
        let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
        let report = ping::ping(&perf.netns, sit.ip, &ping::Options::default()).unwrap();
        assert!(report.all_answered(), "{setup:?}: {}", report.text);
        assert_eq!(report.ttl(), Some(62), "{setup:?}: {}", report.text);
    }
}
