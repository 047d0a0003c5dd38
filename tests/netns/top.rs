//! `tunless top` in a terminal, and without one.

use tunless_lab::{
    Lab,
    daemon::Tunless,
    terminal::{self, Size},
};
use tunless_tests::scene::{SOON, Scene, Setup, until};

/// What it draws in a terminal of its own until its time is up.
fn drawn(tunless: &Tunless, view: &str) -> String {
    let command = tunless.command(&["top", view, "--for", "1s", "-i", "200ms"]).unwrap();
    let output = terminal::run(&command, Size { columns: 160, rows: 20 }).unwrap();
    assert!(output.success(), "{}", output.stdout);
    output.stdout
}

#[test]
fn each_view_shows_what_its_list_does() {
    Scene::new(Lab::new().fabric_filter(true), Setup::VERIFIED).case(|scene| {
        scene.warm_up();
        let tunless = Tunless::new(&scene.lab.node2, None);
        let pod = scene.pods().0.ip.to_string();
        let node = scene.lab.node1.ip.to_string();
        for (view, words) in [
            ("nodes", [node.as_str(), "HEARD"]),
            ("nodes", ["NAME", "search"]),
            ("pods", [pod.as_str(), "INTERFACE"]),
            ("reasons", ["host_encapsulated", "VERDICT"]),
            ("leases", ["EXPIRES", "DESTINATION"]),
        ] {
            // A slow machine may look only once in that time, which shows no rates.
            until(&format!("{words:?} in {view}"), SOON, || {
                let text = drawn(&tunless, view);
                let mut words = words.iter().chain(&["quit", "dropped"]);
                words.all(|word| text.contains(word)).then_some(())
            });
        }
        let piped = tunless.run(&["top"]).unwrap();
        assert_eq!(piped.status, Some(1));
        assert!(piped.stderr.contains("needs a terminal"), "{}", piped.stderr);
        let never = tunless.run(&["top", "--interval", "1ms"]).unwrap();
        assert_eq!(never.status, Some(2), "{}", never.stderr);
        let nowhere = tunless.run(&["top", "--bpffs", "/sys/fs/bpf/nowhere"]).unwrap();
        assert_eq!(nowhere.status, Some(1));
        assert!(nowhere.stderr.contains("nothing is pinned at"), "{}", nowhere.stderr);
    });
}
