//! What an operator sees of a problem: in `systemctl status` and in the journal.

use tunless_tests::scene::{
    SOON, assert_lossless,
    under_systemd::{UnderSystemd, good, refused},
    until,
};

#[test]
fn journal_entries_have_the_priority_of_what_they_say() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    scene.configure(refused);
    systemd.reload().unwrap();
    assert_eq!(scene.wait_for_message("bogus").priority, 4, "a warning: the old file goes on");

    let node2 = &scene.lab.node2.netns;
    node2.set_sysctl("netfilter/nf_conntrack_tcp_be_liberal", "0").unwrap();
    scene.configure(good);
    systemd.reload().unwrap();
    let warning = scene.wait_for_message("nf_conntrack_tcp_be_liberal was changed to 0");
    assert_eq!(warning.priority, 4, "a warning");

    let ours = systemd.journal().unwrap().into_iter().filter(|it| it.identifier == "tunless");
    let ours: Vec<_> = ours.collect();
    assert!(ours.iter().any(|entry| entry.priority == 6), "what goes well is information");
    for entry in &ours {
        // The priority holds the level; a path of Rust's modules helps no operator.
        for noise in ["INFO", "WARN", "ERROR", "dataplane_user::"] {
            assert!(!entry.message.contains(noise), "{}", entry.message);
        }
        // A heading in one entry and its cause in the next: a search finds only one.
        assert!(!entry.message.ends_with(':'), "{}", entry.message);
    }
    scene.finish();
}

#[test]
fn a_file_refused_at_start_is_an_error_in_the_journal() {
    let scene = UnderSystemd::boot(refused);
    assert!(!scene.systemd.systemctl(&["start", "tunless"]).unwrap().success());
    assert_eq!(scene.wait_for_message("bogus").priority, 3);
    scene.finish();
}

#[test]
fn a_refused_reload_stays_in_the_status_until_it_is_repaired() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    scene.configure(refused);
    systemd.reload().unwrap();
    scene.wait_for_message("bogus");
    let is_refused = |text: &str| text.contains("refused");
    systemd.wait_property("StatusText", SOON, is_refused).unwrap();

    // What happens elsewhere changes nothing about the file.
    let address = tunless_lab::Lab::pod_ip(&scene.lab.node2, 9);
    scene.lab.node2.add_pod("another", address).unwrap();
    let endpoints = || systemd.tunless_json(&["endpoints", "list"]).unwrap().to_string();
    until("a pod is added", SOON, || endpoints().contains(&address.to_string()).then_some(()));
    assert!(is_refused(&systemd.property("StatusText").unwrap()));

    scene.configure(good);
    systemd.reload().unwrap();
    systemd.wait_property("StatusText", SOON, |text| !is_refused(text)).unwrap();
    scene.finish();
}

#[test]
fn a_restart_with_a_refused_file_goes_on_with_the_last_accepted_one() {
    let scene = UnderSystemd::started();
    let systemd = &scene.systemd;
    let streams = scene.both_ways();
    scene.configure(refused);
    systemd.restart().unwrap();
    scene.assert_properties(&[("ActiveState", "active"), ("NRestarts", "0")]);
    systemd.wait_property("StatusText", SOON, |text| text.contains("refused")).unwrap();
    let routes = systemd.tunless_json(&["routes", "list"]).unwrap().to_string();
    assert!(routes.contains(scene.lab.node1.block), "{routes}");
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}
