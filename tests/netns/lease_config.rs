//! What is never leased by configuration, and where leases are refused.

use std::{fs, process::Command};

use aya::{
    maps::{MapInfo, loaded_maps},
    programs::{
        LinkOrder, TcAttachType,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
    },
};
use dataplane_common::Settings;
use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Pod,
    daemon::{expect_failure, expect_failure_by},
};
use tunless_tests::{
    prog::{Loaded, Program},
    scene::{
        HASTY, SOON, Scene, Setup, assert_lossless,
        leased::{assert_all_answer, assert_unleased, leases},
        stream_between, until,
    },
    world,
};

const SHORT: &str = "leases: {seconds: 1}\n";

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// A bandwidth plugin's: who limits a rate has to see every packet.
#[test]
fn pods_behind_a_shaper_are_not_leased() {
    Scene::with(lab(), Setup::VERIFIED, SHORT, &HASTY).case(|scene| {
        scene.warm_up();
        let (perf, node2) = (scene.lab.perf(), &scene.lab.node2.netns);
        let tc = |words: &str| {
            node2.exec("tc", &words.split(' ').collect::<Vec<_>>()).unwrap();
        };
        let talks = scene.talks();
        scene.assert_leased(&talks);
        tc(&format!("qdisc add dev {} root tbf rate 1gbit burst 1mb latency 50ms", perf.cali));
        until("its leases lapse", SOON, || {
            leases(&scene.daemon2).iter().all(|lease| !lease.touches(perf.ip)).then_some(())
        });
        assert_all_answer(&talks);
        assert_unleased(&scene.daemon2, perf.ip);
        tc(&format!("qdisc del dev {} root", perf.cali));
        scene.assert_leased(&talks);
        drop(talks);
        scene.assert_nothing_plain();
    });
}

#[test]
fn excluded_addresses_are_not_leased() {
    // At either end; a wider prefix and one inside it are no contradiction.
    for excluded in ["10.20.42.31/32", "10.20.105.215/32, 10.20.105.192/26"] {
        let more = format!("leases: {{seconds: 1, exclude: [{excluded}]}}\n");
        Scene::with(lab(), Setup::VERIFIED, &more, &[]).case(|scene| {
            scene.warm_up();
            let talks = scene.talks();
            assert_all_answer(&talks);
            for daemon in [&scene.daemon1, &scene.daemon2] {
                assert_eq!(leases(daemon), Vec::new());
            }
            for (daemon, node, peer) in [
                (&scene.daemon1, &scene.lab.node1, &scene.lab.node2),
                (&scene.daemon2, &scene.lab.node2, &scene.lab.node1),
            ] {
                daemon.rewrite_config(&scene.setup.config(node, peer, SHORT)).unwrap();
            }
            scene.assert_leased(&talks);
            drop(talks);
            scene.assert_nothing_plain();
        });
    }
}

/// Puts a program that is not tunless's on a pod's interface; see [`remove`].
fn foreign_program(pod: &Pod, options: TcAttachOptions) -> Loaded {
    let mut loaded = Loaded::new(world::settings(Settings::OFF, Settings::SPOOF_DROP));
    let attached = pod.node.run(|| {
        if matches!(options, TcAttachOptions::Netlink(_)) {
            qdisc_add_clsact(&pod.cali)?;
        }
        // It looks for IP in IP, which no pod sends, and passes the rest.
        let program = loaded.classifier(Program::DecapTc);
        program.attach_with_options(&pod.cali, TcAttachType::Ingress, options)?;
        Ok(())
    });
    attached.unwrap();
    loaded
}

/// Takes it away where it is: a filter is removed by the interface's name, and its qdisc after it.
fn remove(pod: &Pod, loaded: Loaded) {
    let removed = pod.node.run(|| {
        drop(loaded);
        Ok(())
    });
    removed.unwrap();
    if pod.node.exec("tc", &["qdisc", "show", "dev", &pod.cali]).unwrap().contains("clsact") {
        pod.node.exec("tc", &["qdisc", "del", "dev", &pod.cali, "clsact"]).unwrap();
    }
}

/// `tunless status`, once it ends with this code and names this fast path. In the
/// middle of a change it may end so for another reason.
fn wait_for_status(daemon: &Daemon, code: i32, fastpath: &str) -> Value {
    until("status", SOON, || {
        let output = daemon.cli(&["status", "--strict", "-o", "json"]).unwrap();
        let status: Value = serde_json::from_str(&output.stdout).unwrap();
        (output.status == Some(code) && status["fastpath"] == fastpath).then_some(status)
    })
}

/// As Felix's eBPF data plane would: then netfilter is not the judge.
#[test]
fn a_foreign_program_at_a_pod_forbids_leases() {
    let kinds: [fn() -> TcAttachOptions; 2] = [
        || TcAttachOptions::TcxOrder(LinkOrder::default()),
        || TcAttachOptions::Netlink(NlOptions::default()),
    ];
    for (options, said) in kinds.iter().zip(["(TCX)", "(clsact)"]) {
        let lab = lab().build().unwrap();
        let (node1, node2) = (&lab.node1, &lab.node2);
        let loaded = foreign_program(lab.perf(), options());
        let config = Setup::VERIFIED.config(node2, node1, SHORT);
        let (code, stderr) = expect_failure(node2, &config).unwrap();
        assert_eq!(code, 1, "{stderr}");
        for said in [said, lab.perf().cali.as_str(), "verified", "`fastpath: off`"] {
            assert!(stderr.contains(said), "no {said} in {stderr}");
        }
        assert!(!node2.bpffs.exists(), "refused before anything was made");
        remove(lab.perf(), loaded);
        drop(lab);

        // It comes while we are at work, and goes again.
        Scene::with(self::lab(), Setup::VERIFIED, SHORT, &HASTY).case(|scene| {
            scene.warm_up();
            let talks = scene.talks();
            scene.assert_leased(&talks);
            let log = scene.daemon2.log().len();
            let loaded = foreign_program(scene.lab.perf(), options());
            let status = wait_for_status(&scene.daemon2, 3, "off");
            assert!(status["problems"].to_string().contains("withheld"), "{status}");
            assert!(scene.daemon2.log()[log..].contains(said), "{}", scene.daemon2.log());
            assert_all_answer(&talks);
            assert_eq!(leases(&scene.daemon2), Vec::new());
            remove(scene.lab.perf(), loaded);
            wait_for_status(&scene.daemon2, 0, "verified");
            scene.assert_leased(&talks);
            drop(talks);
            scene.assert_nothing_plain();
        });
    }
}

#[test]
fn without_nft_or_conntrack_verified_is_refused() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let config = Setup::VERIFIED.config(node2, node1, "");
    let entered = format!("--net={}", node2.netns.path().display());
    let refused = |what: &str, command: &dyn Fn(&str) -> Command, said: &[&str]| {
        let (code, stderr) = expect_failure_by(node2, &config, command).unwrap();
        assert_ne!(code, 0, "{what}");
        for said in [said, &["verified", "fastpath: off"]].concat() {
            assert!(stderr.contains(said), "{what}: no {said} in {stderr}");
        }
        assert!(!node2.bpffs.exists(), "{what}: refused before anything was made");
    };
    let without_nft = |tunless: &str| {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args([&entered, tunless]).env("PATH", "/nonexistent");
        command
    };
    refused("no nft", &without_nft, &["nft", "install nftables"]);

    let empty = lab.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let without_conntrack = |tunless: &str| {
        let mut command = node2.netns.command("unshare");
        let script = "mount --bind \"$0\" /proc/sys/net/netfilter && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(&empty).arg(tunless);
        command
    };
    refused("no conntrack", &without_conntrack, &["conntrack", "modprobe nf_conntrack"]);

    // Neither matters to who asks for neither.
    let off = Setup::OFF.config(node2, node1, "");
    Daemon::start(node2, &off).unwrap().finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// A lease that conntrack would not outlast is refused; when its memory becomes
/// too short later, leases are withheld.
#[test]
fn leases_stay_within_conntracks_memory() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (lab.node1.clone(), lab.node2.clone());
    let set = |name: &str, value: &str| {
        node2.netns.set_sysctl(&format!("netfilter/nf_conntrack_{name}"), value).unwrap();
    };
    let config = Setup::VERIFIED.config(&node2, &node1, "");
    for (name, too_short, before) in [("udp_timeout", "14", "30"), ("tcp_timeout_close", "5", "10")]
    {
        set(name, too_short);
        let (code, stderr) = expect_failure(&node2, &config).unwrap();
        assert_ne!(code, 0);
        for said in ["leases.seconds", "set leases.seconds to 4 or less", name, "fastpath: off"] {
            assert!(stderr.contains(said), "no {said} in {stderr}");
        }
        set(name, before);
    }
    let daemon = Daemon::start_with(&node2, &config, &HASTY).unwrap();
    set("udp_timeout", "14");
    wait_for_status(&daemon, 3, "off");
    let tables = || node2.netns.exec("nft", &["list", "tables"]).unwrap();
    assert!(!tables().contains("tunless"), "nothing is marked");
    set("udp_timeout", "30");
    wait_for_status(&daemon, 0, "verified");
    assert!(tables().contains("table ip tunless"));

    // A bad file changes nothing.
    let bad = [
        ("leases: {seconds: 0}\n", "0 s is no time"),
        ("leases: {mark: 0x4000}\n", "among kube-proxy's bits"),
        ("leases: {size: 0}\n", "0 leases cannot be kept"),
        ("leases: {exclude: [nobody]}\n", "`nobody` is no IPv4 prefix"),
    ];
    for (bad, said) in bad {
        daemon.rewrite_config(&Setup::VERIFIED.config(&node2, &node1, bad)).unwrap();
        until(said, SOON, || daemon.log().contains(said).then_some(()));
        // The refusal itself is listed, which `--strict` would not let pass.
        daemon.wait_json(&["status"], SOON, |it| it["fastpath"] == "verified").unwrap();
    }
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}

/// Another size is another map. Leases end when programs are loaded, so they are granted anew in
/// it; nothing is lost meanwhile, and the kernel keeps no old map.
#[test]
fn another_size_is_another_map() {
    for setup in Setup::BOTH_VERIFIED {
        let mut scene = Scene::with(lab(), setup, "leases: {size: 2048}\n", &[]);
        scene.warm_up();
        let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
        let talks = scene.talks();
        scene.assert_leased(&talks);
        let (perf, sit) = scene.pods();
        let streams = [stream_between(perf, sit, 5001), stream_between(sit, perf, 5002)];
        let pinned = || MapInfo::from_pin(node2.bpffs.join("serving/LEASES")).ok();
        let mut old = pinned().unwrap().id();
        for (size, is_restarted) in [(4096, false), (1024, true)] {
            let config = setup.config(&node2, &node1, &format!("leases: {{size: {size}}}\n"));
            if is_restarted {
                scene.daemon2.terminate().unwrap();
            }
            scene.daemon2.rewrite_config(&config).unwrap();
            if is_restarted {
                scene.daemon2.restart().unwrap();
            }
            let new = until("the map has the new size", SOON, || {
                pinned().filter(|map| map.max_entries() == size)
            });
            scene.daemon2.wait_json(&["status"], SOON, |it| it["ready"] == true).unwrap();
            scene.assert_leased(&talks);
            assert_all_answer(&talks);
            until("the old map is gone", SOON, || {
                let mut maps = loaded_maps().filter_map(Result::ok);
                (!maps.any(|map| map.id() == old)).then_some(())
            });
            old = new.id();
        }
        streams.into_iter().for_each(assert_lossless);
        drop(talks);
        scene.assert_nothing_plain();
        scene.finish();
    }
}
