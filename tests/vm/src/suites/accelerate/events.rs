//! The events. Each under a flow each way, but for those that end every flow.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tunless_lab::{Daemon, Lab, Node, cmd, trace::Snapshot, traffic::ping};

use super::{
    felix, kernel_source,
    scene::{
        SOON, carries_pings, finish, grant_power, lab, link, restored, start, take_power, until,
        untouched, works, yaml,
    },
    streams::Streams,
    vxlan,
};
use crate::{
    MODULES,
    checks::Outcome,
    suites::{
        Guest,
        smoke::{boot_order, config, pings},
    },
    tunl0::{self, Owner},
};

/// Name and deed.
pub type Event = (&'static str, fn(&Guest) -> Result<()>);

/// All of them.
pub const ALL: &[Event] = &[
    ("Felix's routes", felix_routes),
    ("BIRD's routes", bird_routes),
    ("start", start_under_load),
    ("SIGKILL and restart", killed),
    ("SIGTERM and detach", detached),
    ("configuration refused at start", refused),
    ("programs do not load at start", does_not_load),
    ("tunl0 down and up", down_and_up),
    ("tunl0 deleted", deleted),
    ("module ipip removed and loaded", module_reloaded),
    ("tunl0's MTU changed", mtu),
    ("Felix reconciles", reconciled),
    ("Felix cleans up at its start", cleaned_up),
    ("mode: auto", auto),
    ("mode: auto, tunless boots first", boot_order::tunless_first),
    ("mode: auto, tunl0 boots first", boot_order::tunl0_first),
    ("mode: auto, the address comes late", boot_order::address_late),
    ("a pod running VXLAN", vxlan::pod_runs_vxlan),
    ("source kernel: Felix's routes", kernel_source::felix),
    ("source kernel: BIRD's routes", kernel_source::bird),
    ("source kernel: module ipip removed and loaded", kernel_source::tunl0_replaced),
];

fn felix_routes(guest: &Guest) -> Result<()> {
    beside(guest, Owner::Felix)
}

fn bird_routes(guest: &Guest) -> Result<()> {
    beside(guest, Owner::Bird)
}

/// Strict `rp_filter`, nothing of others changed, and tunless at work.
fn beside(guest: &Guest, owner: Owner) -> Result<()> {
    let lab = lab(owner)?;
    let node2 = &lab.node2;
    for interface in ["all", "eth0", "tunl0", &lab.perf().cali] {
        let value = node2.netns.sysctl(&format!("ipv4/conf/{interface}/rp_filter"))?;
        ensure!(value == "1", "{interface}'s rp_filter is {value}, not strict");
    }
    let before = Snapshot::take(&node2.netns)?;
    let daemon = start(&lab)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    guest.checks.check("untouched", || untouched(&before, node2));
    guest.checks.check("loss", || streams.lost());
    finish(&lab, daemon)?;
    guest.checks.check("restored", || restored(&before, node2));
    Ok(())
}

/// tunless comes to flows that tunl0 carries.
fn start_under_load(guest: &Guest) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let streams = Streams::start(&lab)?;
    let daemon = start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    guest.checks.check("loss", || streams.lost_with_qdiscs(guest.kernel));
    finish(&lab, daemon)
}

fn killed(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, daemon, streams| {
        let before = Snapshot::take(&lab.node2.netns)?;
        daemon.kill9()?;
        streams.flow()?;
        // What it leaves is what there was: nobody's state depends on it.
        guest.checks.check("untouched", || untouched(&before, &lab.node2));
        daemon.restart()
    })
}

fn detached(guest: &Guest) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let before = Snapshot::take(&lab.node2.netns)?;
    let daemon = start(&lab)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    guest.checks.check("untouched", || untouched(&before, &lab.node2));
    // SIGTERM, `tunless detach`, and a look at what is left.
    finish(&lab, daemon)?;
    streams.flow()?;
    guest.checks.check("loss", || streams.lost_with_qdiscs(guest.kernel));
    guest.checks.check("restored", || restored(&before, &lab.node2));
    guest.checks.check("ping", || {
        pings(&lab)?;
        Ok(Outcome::good("by tunl0"))
    });
    Ok(())
}

/// It goes on with the text that was accepted last.
fn refused(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, daemon, streams| {
        let good = yaml(lab);
        daemon.kill9()?;
        daemon.rewrite_config(&format!("{good}nonsense: true\n"))?;
        daemon.restart()?;
        guest.checks.check("reported", || lists(daemon, "config-refused"));
        streams.flow()?;
        daemon.rewrite_config(&good)
    })
}

/// The programs of the daemon before go on.
fn does_not_load(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, daemon, streams| {
        // Another setting, so that other programs are wanted.
        daemon.kill9()?;
        daemon.rewrite_config(&format!("{}spoof: stack\n", yaml(lab)))?;
        take_power()?;
        let started = daemon.restart();
        let listed = started.and_then(|()| lists(daemon, "reconcile-failed"));
        grant_power()?;
        guest.checks.check("reported", || listed);
        streams.flow()?;
        daemon.kill9()?;
        daemon.restart()
    })
}

/// Waits until `tunless status` lists a problem of this code.
fn lists(daemon: &Daemon, code: &str) -> Result<Outcome> {
    until(&format!("`tunless status` lists {code}"), || {
        let status: Value = serde_json::from_str(&daemon.cli(&["status", "-o", "json"])?.stdout)?;
        let problems = status["problems"].as_array().context("no list of problems")?;
        Ok(problems.iter().any(|problem| problem["code"] == code))
    })?;
    Ok(Outcome::GOOD)
}

/// tunless is at work; something happens; it is at work again, and no flow has
/// lost more than a packet.
fn with_streams(
    guest: &Guest,
    event: impl FnOnce(&Lab, &mut Daemon, &Streams) -> Result<()>,
) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let mut daemon = start(&lab)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    event(&lab, &mut daemon, &streams)?;
    guest.checks.check("works again", || works(&daemon));
    guest.checks.check("loss", || streams.lost());
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    finish(&lab, daemon)
}

/// The kernel takes routes with the device. When it is back, with what Felix
/// gives it, flows go over it at once, and tunless takes them over.
fn down_and_up(guest: &Guest) -> Result<()> {
    comes_back(guest, |lab| lab.node2.netns.ip("link set tunl0 down").map(drop))
}

/// The device of the module's own: the kernel says yes, and keeps it.
fn deleted(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, _, _| {
        let before = index(&lab.node2)?;
        let output = lab.node2.netns.try_exec("ip", &["link", "del", "tunl0"], SOON)?;
        ensure!(index(&lab.node2)? == before, "tunl0 went: {output:?}");
        let answer = if output.success() { "accepted, without effect" } else { "refused" };
        guest.checks.note("tunl0", Outcome::good(answer));
        Ok(())
    })
}

fn module_reloaded(guest: &Guest) -> Result<()> {
    comes_back(guest, |lab| reload_ipip(lab, || tunl0::raise(&lab.node1, &lab.node2)))
}

/// The one way to be rid of tunl0: all of them go, and come back with other
/// interface numbers; then `others` brings up what is not node2's.
pub fn reload_ipip(lab: &Lab, others: impl FnOnce() -> Result<()>) -> Result<()> {
    let list = fs::read_to_string(MODULES).context(MODULES)?;
    let is_ipip = |path: &&str| Path::new(path).file_stem().is_some_and(|name| name == "ipip");
    let module = list.lines().find(is_ipip).context("the module ipip is built in")?;
    let before = index(&lab.node2)?;
    busybox(&["rmmod", "ipip"])?;
    ensure!(link(&lab.node2, "tunl0")?.is_none(), "tunl0 outlived its module");
    busybox(&["insmod", module])?;
    others()?;
    let after = index(&lab.node2)?;
    ensure!(after != before, "the same interface number again proves nothing");
    Ok(())
}

fn index(node: &Node) -> Result<Value> {
    Ok(link(node, "tunl0")?.context("there is no tunl0")?["ifindex"].clone())
}

fn busybox(args: &[&str]) -> Result<()> {
    cmd::check(Command::new("busybox").args(args), b"").map(drop)
}

fn comes_back(guest: &Guest, event: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let daemon = start(&lab)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    drop(streams);
    event(&lab)?;
    guest.checks.check("reported", || {
        let not_ready = || Ok(daemon.cli(&["status", "--strict"])?.status == Some(3));
        until("`tunless status` says that something is missing", not_ready)?;
        Ok(Outcome::GOOD)
    });
    felix::reconcile(&lab.node2, &lab.node1)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works again", || works(&daemon));
    guest.checks.check("loss", || streams.lost_with_qdiscs(guest.kernel));
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    finish(&lab, daemon)
}

fn mtu(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, daemon, _| {
        for mtu in [1400, 1480] {
            lab.node2.netns.ip(&format!("link set tunl0 mtu {mtu}"))?;
            daemon.wait_json(&["status"], SOON, |status| status["tunnel"]["mtu"] == mtu)?;
            let df = |size: u32| ping::Options {
                count: 2,
                size: size - 28,
                df: true,
                ..Default::default()
            };
            lab.perf().netns.ip("route flush cache")?;
            let told = ping::ping(&lab.perf().netns, lab.sit().ip, &df(1480))?;
            let expected = (mtu < 1480).then_some(mtu);
            ensure!(told.mtu() == expected, "of {mtu} the pod is told {:?}", told.mtu());
            let fits = ping::ping(&lab.perf().netns, lab.sit().ip, &df(mtu))?;
            ensure!(fits.all_answered(), "{mtu} bytes do not fit:\n{}", fits.text);
            let has = link(&lab.node2, "tunl0")?.context("there is no tunl0")?["mtu"].clone();
            ensure!(has == mtu, "tunl0's MTU is {has}: somebody has set it back");
        }
        guest.checks.note("followed", Outcome::GOOD);
        Ok(())
    })
}

fn reconciled(guest: &Guest) -> Result<()> {
    with_streams(guest, |lab, _, _| {
        let before = Snapshot::take(&lab.node2.netns)?;
        for _ in 0..10 {
            felix::reconcile(&lab.node2, &lab.node1)?;
            thread::sleep(Duration::from_millis(300));
        }
        guest.checks.check("untouched", || untouched(&before, &lab.node2));
        Ok(())
    })
}

fn cleaned_up(guest: &Guest) -> Result<()> {
    let lab = lab(Owner::Felix)?;
    let node2 = &lab.node2;
    let interfaces = ["eth0", "tunl0", &lab.perf().cali];
    // Not on the pod's: who has a filter there wants to see every packet, and
    // nothing of that pod is leased.
    let leave_filters = || -> Result<()> {
        interfaces[..2].iter().try_for_each(|name| felix::old_filter(&node2.netns, name))
    };
    // What it costs without us.
    let streams = Streams::start(&lab)?;
    for _ in 0..5 {
        leave_filters()?;
        felix::clean_up(node2, &interfaces)?;
    }
    let (lost, _) = streams.stop()?;
    let control = format!("{}+{} lost in 5 turns", lost[0], lost[1]);
    guest.checks.note("without tunless", Outcome::good(control));

    leave_filters()?;
    let daemon = start(&lab)?;
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon));
    let pins = pins(&node2.bpffs)?;
    felix::clean_up(node2, &interfaces)?;
    guest.checks.check("works again", || works(&daemon));
    guest.checks.check("loss", || {
        streams.lost_or(
            "Felix removes clsact qdiscs, and that stops their interfaces for a moment, on every \
             kernel and without tunless, too (counted beside): more than one packet per flow was \
             lost, and less than a second's",
        )
    });
    guest.checks.check("ping", || carries_pings(&lab, &daemon));
    let mut left = Vec::new();
    until("every pin of ours is there", || {
        left = self::pins(&node2.bpffs)?;
        Ok(pins.iter().all(|pin| left.contains(pin)))
    })
    .with_context(|| format!("{pins:?} became {left:?}"))?;
    finish(&lab, daemon)
}

/// Pins of programs and maps.
fn pins(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(pins(&entry.path())?);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(found)
}

/// By what the host is like: routes over tunl0, or none.
fn auto(guest: &Guest) -> Result<()> {
    let lab = Lab::new().build()?;
    tunl0::raise(&lab.node2, &lab.node1)?;
    // There is a tunl0, and it is up, but nobody's routes lead there.
    lab.node1.netns.ip("link set tunl0 up")?;
    let auto = |node, peer| Daemon::start(node, &config(node, peer, "auto", "verified"));
    let daemon1 = auto(&lab.node1, &lab.node2)?;
    let daemon2 = auto(&lab.node2, &lab.node1)?;
    for (daemon, mode) in [(&daemon2, "accelerate"), (&daemon1, "replace")] {
        guest.checks.check(mode, || {
            let status = daemon.cli_json(&["status"])?;
            ensure!(status["mode"] == mode, "the mode is {}", status["mode"]);
            ensure!(status["ready"] == true, "it is not ready: {status}");
            Ok(Outcome::GOOD)
        });
    }
    let streams = Streams::start(&lab)?;
    guest.checks.check("works", || works(&daemon1).and_then(|_| works(&daemon2)));
    guest.checks.check("loss", || streams.lost());
    guest.checks.check("ping", || carries_pings(&lab, &daemon2));
    daemon1.finish()?;
    finish(&lab, daemon2)
}
