//! Programs of others on pods' interfaces: those that only watch are accepted, and see every packet.

use std::os::fd::OwnedFd;

use aya::programs::TcAttachType;
use dataplane_user::bpf::sys;
use nix::net::if_::if_nametoindex;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Pod,
    bpf::{
        Hook, attach_tcx, id_of, instruction, judge_by_length, load_named_classifier,
        opcode::{ADD, ATOMIC_ADD, CALL, COPY, EXIT, IF_EQUAL, LOAD_MAP, MOVE, STORE_NUMBER},
        pin, raw, watcher,
    },
};
use tunless_tests::scene::{
    HASTY, SOON, Scene, Setup, assert_lossless,
    leased::{assert_all_answer, leases},
    lossless, stream_between, until,
};

const SHORT: &str = "leases: {seconds: 1}\n";
const CLSACT: &str = "attach: clsact\nleases: {seconds: 1}\n";

/// Daemons have the rights of the unit, which do not let them open programs of others.
fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true).confined(true)
}

/// Counts packets in a map, and passes each on.
struct Watcher {
    program: OwnedFd,
    counter: OwnedFd,
}

impl Watcher {
    fn load() -> Self {
        const MAP_LOOKUP: i32 = 1;
        let counter = sys::create_array("watched", 8).unwrap();
        let map = i32::try_from(raw(&counter)).unwrap();
        let program = [
            instruction(STORE_NUMBER, 10, 0, -4, 0),
            instruction(COPY, 2, 10, 0, 0),
            instruction(ADD, 2, 0, 0, -4),
            instruction(LOAD_MAP, 1, 1, 0, map),
            0,
            instruction(CALL, 0, 0, 0, MAP_LOOKUP),
            instruction(IF_EQUAL, 0, 0, 2, 0),
            instruction(MOVE, 1, 0, 0, 1),
            instruction(ATOMIC_ADD, 0, 1, 0, 0),
            instruction(MOVE, 0, 0, 0, -1),
            instruction(EXIT, 0, 0, 0, 0),
        ];
        Self { program: load_named_classifier("watch_packets", &program).unwrap(), counter }
    }

    fn count(&self) -> u64 {
        let mut value = [0; 8];
        sys::lookup(&self.counter, &[0; 4], &mut value).unwrap();
        u64::from_ne_bytes(value)
    }
}

fn attach(pod: &Pod, program: &OwnedFd, hook: Hook) -> OwnedFd {
    let attached = pod.node.run(|| Ok(attach_tcx(program, if_nametoindex(&*pod.cali)?, hook)?));
    attached.unwrap()
}

/// How many programs come behind ours, which is the last of them if none does.
fn programs(pod: &Pod) -> Vec<u32> {
    let listed = pod.node.run(|| {
        let ifindex = dataplane_common::IfIndex(if_nametoindex(&*pod.cali)?);
        Ok(sys::tcx_programs(ifindex, TcAttachType::Ingress)?)
    });
    listed.unwrap()
}

fn wait_for_fastpath(daemon: &Daemon, fastpath: &str) -> String {
    let status = daemon.wait_json(&["status"], SOON, |status| status["fastpath"] == fastpath);
    status.unwrap()["problems"].to_string()
}

/// Everything that a leased pod sends is seen.
fn assert_sees_all(scene: &Scene, watcher: &Watcher) {
    let (perf, sit) = scene.pods();
    let before = watcher.count();
    let leased_before = leased_packets(scene);
    let stream = stream_between(perf, sit, 5005);
    until("the stream is leased", SOON, || {
        (leased_packets(scene) > leased_before + 100).then_some(())
    });
    let report = lossless(stream);
    let seen = watcher.count() - before;
    assert!(seen >= report.sent, "{seen} of {} packets were seen", report.sent);
}

fn leased_packets(scene: &Scene) -> u64 {
    let encap = leases(&scene.daemon2).into_iter().filter(|lease| lease.direction == "encap");
    encap.map(|lease| lease.packets).sum()
}

#[test]
fn a_watcher_before_ours_is_accepted_and_sees_every_packet() {
    Scene::with(lab(), Setup::VERIFIED, SHORT, &HASTY).case(|scene| {
        scene.warm_up();
        let perf = scene.lab.perf().clone();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        let watcher = Watcher::load();
        let ours = programs(&perf);
        // Behind ours, where it would miss what is leased.
        let link = attach(&perf, &watcher.program, Hook::Ingress);
        assert_eq!(programs(&perf)[..ours.len()], ours);
        until("ours is behind it", SOON, || {
            let now = programs(&perf);
            (now.len() == 2 && now.last() == ours.last()).then_some(())
        });
        wait_for_fastpath(&scene.daemon2, "verified");
        scene.assert_leased(&talks);
        assert_sees_all(scene, &watcher);
        scene.daemon2.terminate().unwrap();
        scene.daemon2.restart().unwrap();
        wait_for_fastpath(&scene.daemon2, "verified");
        assert_eq!(programs(&perf).len(), 2);
        assert_sees_all(scene, &watcher);
        // A long program with a function, of an agent that restarts: its numbers are new each time.
        for _ in 0..3 {
            let program = watcher::load().unwrap();
            let agent = attach(&perf, &program, Hook::Ingress);
            until("ours is behind both", SOON, || {
                let (now, new) = (programs(&perf), id_of(&program).unwrap());
                (now.len() == 3 && now[1] == new).then_some(())
            });
            wait_for_fastpath(&scene.daemon2, "verified");
            scene.assert_leased(&talks);
            drop((agent, program));
        }
        let log = scene.daemon2.log();
        assert!(!log.contains("withheld"), "{log}");
        assert_all_answer(&talks);
        drop((link, talks));
        scene.assert_nothing_plain();
    });
}

/// What may drop, and what misses leased packets, takes the operator's word.
#[test]
fn other_programs_are_accepted_by_name_only() {
    for (hook, name) in [(Hook::Ingress, "judge_by_length"), (Hook::Egress, "watch_packets")] {
        Scene::with(lab(), Setup::VERIFIED, SHORT, &HASTY).case(|scene| {
            scene.warm_up();
            let talks = scene.talks();
            scene.assert_leased(&talks);
            let (node1, node2) = (scene.lab.node1.clone(), scene.lab.node2.clone());
            let perf = scene.lab.perf().clone();
            let program = match hook {
                Hook::Ingress => judge_by_length().unwrap(),
                Hook::Egress => Watcher::load().program,
            };
            let link = attach(&perf, &program, hook);
            let problems = wait_for_fastpath(&scene.daemon2, "off");
            for said in [name, perf.cali.as_str(), "leases.accept_programs", "fastpath-withheld"] {
                assert!(problems.contains(said), "no {said} in {problems}");
            }
            assert_eq!(leases(&scene.daemon2), Vec::new());
            assert_all_answer(&talks);
            let cut = &name[..name.len() - 3];
            let accepting = |names: &str| {
                let more = format!("leases: {{seconds: 1, accept_programs: [{names}]}}\n");
                scene.setup.config(&node2, &node1, &more)
            };
            scene.daemon2.rewrite_config(&accepting("another")).unwrap();
            wait_for_fastpath(&scene.daemon2, "off");
            scene.daemon2.rewrite_config(&accepting(&format!("another, '{cut}*'"))).unwrap();
            wait_for_fastpath(&scene.daemon2, "verified");
            scene.assert_leased(&talks);
            scene.daemon2.terminate().unwrap();
            scene.daemon2.restart().unwrap();
            wait_for_fastpath(&scene.daemon2, "verified");
            scene.assert_leased(&talks);
            assert_all_answer(&talks);
            drop((link, talks));
            scene.assert_nothing_plain();
        });
    }
}

/// Ours come behind filters of a lower number, and before all filters where ours are links.
#[test]
fn a_watching_filter_is_accepted_where_ours_come_behind_it() {
    let pinned = format!("/sys/fs/bpf/tunless-lab-watcher-{}", std::process::id());
    for (config, is_accepted) in [(CLSACT, true), (SHORT, false)] {
        Scene::with(lab(), Setup::VERIFIED, config, &HASTY).case(|scene| {
            scene.warm_up();
            let talks = scene.talks();
            scene.assert_leased(&talks);
            let perf = scene.lab.perf().clone();
            let watcher = Watcher::load();
            pin(&watcher.program, pinned.as_ref()).unwrap();
            let tc = |words: &str| {
                perf.node.exec("tc", &words.split(' ').collect::<Vec<_>>()).unwrap();
            };
            if !is_accepted {
                tc(&format!("qdisc add dev {} clsact", perf.cali));
            }
            tc(&format!(
                "filter add dev {} ingress pref 7 bpf direct-action object-pinned {pinned}",
                perf.cali
            ));
            std::fs::remove_file(&pinned).unwrap();
            if is_accepted {
                assert_sees_all(scene, &watcher);
                std::thread::sleep(std::time::Duration::from_secs(1));
                wait_for_fastpath(&scene.daemon2, "verified");
                assert_sees_all(scene, &watcher);
                tc(&format!("filter del dev {} ingress pref 7", perf.cali));
            } else {
                let problems = wait_for_fastpath(&scene.daemon2, "off");
                assert!(problems.contains("watch_packets"), "{problems}");
                tc(&format!("qdisc del dev {} clsact", perf.cali));
                wait_for_fastpath(&scene.daemon2, "verified");
            }
            scene.assert_leased(&talks);
            let stream = stream_between(&perf, scene.lab.sit(), 5006);
            assert!(stream.wait_for(50, SOON));
            assert_lossless(stream);
            drop(talks);
            scene.assert_nothing_plain();
        });
    }
}
