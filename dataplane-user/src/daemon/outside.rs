//! The node as a command sees it: what the daemon reported, and what a look at pins, maps and the
//! kernel shows now. It works while the daemon is down, and is the one list of problems of `tunless
//! status` and `tunless doctor`.

use std::collections::BTreeMap;

use anyhow::Result;
use dataplane_common::Route;
use ipnet::Ipv4Net;

use super::{
    failed_start::FailedStart,
    heard::Heard,
    observe::health::{self, Seen},
    report::{self, Code, Decided, Problem, State, names, unix_now},
    running,
};
use crate::{
    bpf::{Maps, Pins},
    clock,
    kernel::{Host, Kernel},
};

/// What a command can know of the node.
pub struct Outside {
    /// The daemon's process id; `None`: it is not running.
    pub running: Option<u32>,
    /// Its report, also of a daemon that has ended, as long as no other has begun.
    pub state: Option<State>,
    /// This version's maps, if they can be read.
    pub maps: Option<Maps>,
    /// The routes in them.
    pub routes: Option<BTreeMap<Ipv4Net, Route>>,
    /// The kernel's interfaces, addresses and routes.
    pub host: Host,
    /// What of tunless is at work.
    pub seen: Seen,
    /// What the daemon noticed of the other nodes.
    pub heard: Heard,
    /// What is wrong, the gravest first.
    pub problems: Vec<Problem>,
}

impl Outside {
    /// What the daemon decided, if it reported that.
    #[must_use]
    pub fn decided(&self) -> Option<&Decided> {
        self.state.as_ref()?.decided.as_ref()
    }
}

/// Looks at the instance with these pins.
///
/// # Errors
/// If the kernel cannot be asked, or pins cannot be read.
pub async fn look(pins: &Pins) -> Result<Outside> {
    let running = running(pins);
    let mut problems = Vec::new();
    let state = match State::read(pins) {
        Ok(state) => state.filter(|state| running.is_none_or(|pid| pid == state.pid)),
        Err(error) => {
            problems.push(Problem::new(Code::ReportUnreadable, "", format!("{error:#}")));
            None
        }
    };
    let maps = if pins.have_maps() { Maps::open(pins).map(Some) } else { Ok(None) };
    let maps = maps.unwrap_or_else(|error| {
        problems.push(Problem::new(Code::PinsLost, "", format!("{error:#}")));
        None
    });
    let routes = maps.as_ref().map(Maps::all_routes).transpose()?;
    let decided = state.as_ref().and_then(|state| state.decided.as_ref());
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let seen = see(&kernel, &host, pins, decided, routes.as_ref()).await?;
    problems.extend(daemon_problems(pins, running, state.as_ref(), &seen));
    if let Some(state) = &state {
        problems.extend(current(&state.problems, decided, &seen, running.is_some()));
    }
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let heard = Heard::of(state.as_ref(), names::read(pins));
    Ok(Outside { running, state, maps, routes, host, seen, heard, problems })
}

async fn see(
    kernel: &Kernel,
    host: &Host,
    pins: &Pins,
    decided: Option<&Decided>,
    routes: Option<&BTreeMap<Ipv4Net, Route>>,
) -> Result<Seen> {
    let none = BTreeMap::new();
    let tunnel = decided.map_or("", |decided| &decided.tunnel.interface);
    let asks_nft = decided.is_some_and(|decided| decided.marks);
    health::look(kernel, pins, host, tunnel, asks_nft, routes.unwrap_or(&none)).await
}

/// What the daemon reported, less what a look at the host shows to be over, and what that shows
/// besides.
fn current(
    reported: &[Problem],
    decided: Option<&Decided>,
    seen: &Seen,
    is_running: bool,
) -> Vec<Problem> {
    let is_past = |code| is_checked(code) || (code == Code::Starting && !is_running);
    let still = reported.iter().filter(|it| !is_past(it.code));
    let mut problems: Vec<Problem> = still.cloned().collect();
    let Some(decided) = decided else { return problems };
    for mut problem in report::check(decided, seen) {
        let is_it = |it: &Problem| it.code == problem.code && it.subject == problem.subject;
        let since = reported.iter().find(|it| is_it(it)).and_then(|known| known.since);
        problems.retain(|it| !is_it(it));
        // Without a daemon that repairs it there is nothing to wait for.
        problem.since = since.or_else(|| is_running.then(unix_now));
        problems.push(problem);
    }
    problems
}

/// Whether a look at the host shows if a problem still is one.
fn is_checked(code: Code) -> bool {
    matches!(
        code,
        Code::PinsLost
            | Code::ProgramMissing
            | Code::XdpMissing
            | Code::PodProgramMissing
            | Code::ForwardingOff
            | Code::PodForwardingOff
            | Code::UnderlayForwardingOff
            | Code::MarkTable
            | Code::Sysctl
            | Code::ForeignRoute
            | Code::TryOver
            | Code::TryRuns
    )
}

/// What is wrong with the daemon itself.
fn daemon_problems(
    pins: &Pins,
    running: Option<u32>,
    state: Option<&State>,
    seen: &Seen,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    match (running, state) {
        (Some(0), None) => problems.push(
            Problem::new(
                Code::ReportUnreadable,
                "",
                "a daemon keeps these pins whose report is not in this /run, as one in a container",
            )
            .remedy("run the command where the daemon runs"),
        ),
        (Some(_), None) => problems.push(Problem::new(
            Code::Starting,
            "",
            "the daemon has started, but has not reported anything yet",
        )),
        (Some(_), Some(state)) => problems.extend(report::stuck(state, clock::monotonic())),
        (None, _) if FailedStart::read(pins).is_some() => {
            problems.extend(FailedStart::read(pins).map(|failed| {
                let what = format!("the daemon does not start: {}", failed.error);
                let since = Some(failed.since);
                Problem { since, ..Problem::new(Code::StartFailed, "", what) }
                    .remedy("it starts by itself once that is repaired, if systemd runs it")
            }));
        }
        // Below, the problem that there are no pins has the same remedy.
        (None, _) if !seen.has_maps => {}
        (None, _) => problems.push(
            Problem::new(
                Code::DaemonStopped,
                "",
                "the daemon is not running; forwarding does not need it, changes do; after a \
                 minute sources that contradict the maps are left to the kernel to judge",
            )
            .remedy("start it: `systemctl start tunless`"),
        ),
    }
    if !seen.has_maps && running.is_none() {
        let others = pins.other_versions().unwrap_or_default();
        let root = pins.root().display();
        let what = match others.first() {
            Some(other) => format!(
                "the programs of another version serve, by the maps in {}; this version of the \
                 command cannot read them",
                other.display()
            ),
            None => format!("tunless is not attached here: nothing is pinned at {root}"),
        };
        problems.push(
            Problem::new(Code::PinsLost, "", what)
                .remedy("start the daemon: `systemctl start tunless`"),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dataplane_common::IfIndex;
    use serde_json::json;

    use super::*;

    /// What the daemon has reported and what a look shows is one problem, as it is now.
    #[test]
    fn no_problem_is_listed_twice() {
        let attachment = |program| json!({"program": program, "ifindex": 2});
        let programs = ["encap_host", "decap_tc", "decap_xdp", "encap_pod"].map(attachment);
        let decided = json!({
            "mode": "accelerate", "mode_ground": "", "fastpath": "verified", "spoof": "drop",
            "node": "172.16.36.10", "node_ground": "", "has_routes": true, "marks": true,
            "tunnel": {"interface": "tunl0", "ifindex": 7, "address": null, "mtu": 1480},
            "attachments": programs,
        });
        let decided: Decided = serde_json::from_value(decided).unwrap();
        let seen = |now| Seen {
            names: [(IfIndex(2), "eth0".to_owned())].into(),
            not_forwarding: [IfIndex(2), IfIndex(7)].into(),
            marks: Some(false),
            attempt: Some((Duration::from_secs(5), now)),
            ..Seen::default()
        };
        let before = seen(Duration::from_secs(4));
        let reported = report::check(&decided, &before);
        assert!(reported.len() > 6, "{reported:?}");
        let kinds = |problems: &[Problem]| -> Vec<(Code, String)> {
            problems.iter().map(|it| (it.code, it.subject.clone())).collect()
        };
        let listed = current(&reported, Some(&decided), &before, true);
        assert_eq!(kinds(&listed), kinds(&reported));
        let after = current(&reported, Some(&decided), &seen(Duration::from_secs(6)), true);
        let tried = [Code::TryOver, Code::TryRuns];
        let codes = after.iter().map(|it| it.code).filter(|code| tried.contains(code));
        assert_eq!(codes.collect::<Vec<_>>(), [Code::TryOver], "{after:?}");
    }
}
