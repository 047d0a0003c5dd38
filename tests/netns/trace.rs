//! `tunless trace` asked for what cannot be: one line, and the right exit code. What it shows of packets is
//! tested in virtual machines, because not every kernel lets a program be watched (`tests/vm`, suite
//! `smoke`).

use tunless_lab::{Lab, daemon::Tunless};
use tunless_tests::scene::{Scene, Setup};

#[test]
fn what_cannot_be_traced_is_one_line() {
    Scene::new(Lab::new(), Setup::OFF).case(|scene| {
        let daemon = &scene.daemon2;
        for (args, status, complaint) in [
            (&["--pod", "web"][..], 2, "`web` is neither an IPv4 address nor a net"),
            (&["--protocol", "tcpp"], 2, "`tcpp` is not a protocol"),
            (&["--port", "0"], 2, "0 is not in 1..=65535"),
            (&["--rate", "0"], 2, "0 is not in 1.."),
            (&["-c", "0"], 2, "0 is not in 1.."),
            (&["--reason", "decap"], 2, "`decap` is not a reason: `tunless counters list --all`"),
            (&["--for", "never"], 2, "is no time"),
            (&["--node", "192.0.2.1"], 1, "no route leads to the node 192.0.2.1"),
            (&["--protocol", "icmp", "--port", "53"], 1, "only tcp and udp have ports"),
            (&["--reason", "decap_to_pod", "--drops"], 1, "none of the reasons given is a drop"),
            (&["-w", "/nowhere/file"], 1, "writing /nowhere/file"),
        ] {
            let output = daemon.cli(&[&["trace"], args].concat()).unwrap();
            assert_eq!(output.status, Some(status), "{args:?}: {}", output.stderr);
            assert!(output.stderr.contains(complaint), "{args:?}: {}", output.stderr);
            if status == 1 {
                assert_eq!(output.stderr.lines().count(), 1, "{args:?}: {}", output.stderr);
            }
        }
    });
    let lab = Lab::new().build().unwrap();
    let nothing = Tunless::new(&lab.node2, None).run(&["trace"]).unwrap();
    assert_eq!(nothing.status, Some(1));
    assert!(nothing.stderr.contains("nothing is pinned at"), "{}", nothing.stderr);
}
