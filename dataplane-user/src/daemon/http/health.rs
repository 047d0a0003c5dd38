//! `/healthz` and `/readyz`: pure.

use std::{fmt::Write as _, time::Duration};

use crate::{
    daemon::report::{Code, Problem, State, current, is_ready, stuck},
    output,
};

/// Whether it is so, and the body that explains it.
pub type Verdict = (bool, String);

/// Whether the daemon's loop is alive at `now` (`CLOCK_MONOTONIC`): it has compared everything
/// within the time that [`stuck`] allows. Nothing else counts, least of all a datastore: restarting
/// the daemon repairs none.
#[must_use]
pub fn alive(state: &State, now: Duration) -> Verdict {
    match stuck(state, now) {
        None => (true, "ok\n".to_owned()),
        Some(problem) => (false, format!("{} {}\n", problem.code.as_str(), problem.what)),
    }
}

/// Whether pod traffic flows, as in `tunless status`, and the problems by code, a line each.
/// `unix`: the same moment, Unix seconds.
///
/// The body has no addresses, names or causes: any user of the host can read it.
#[must_use]
pub fn ready(state: &State, now: Duration, unix: u64) -> Verdict {
    let problems = current(state, now);
    let is_ready = is_ready(&problems, unix);
    let mut body = if is_ready { "ready\n" } else { "not ready\n" }.to_owned();
    for code in Code::ALL {
        let of_code: Vec<&Problem> =
            problems.iter().filter(|problem| problem.code == *code).collect();
        if of_code.is_empty() {
            continue;
        }
        let _ = write!(body, "{} {}", code.as_str(), code.level().as_str());
        if of_code.len() > 1 {
            let _ = write!(body, " {} times", of_code.len());
        }
        if let Some(since) = of_code.iter().filter_map(|problem| problem.since).min() {
            let _ = write!(body, " for {}", output::age(unix.saturating_sub(since)));
        }
        body.push('\n');
    }
    (is_ready, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::{SILENCE, State};

    fn state(problems: Vec<Problem>) -> State {
        State { heartbeat: 100.0, problems, ..State::for_tests() }
    }

    fn since(code: Code, since: u64) -> Problem {
        Problem { since: Some(since), ..Problem::new(code, "eth0", "secret cause") }
    }

    #[test]
    fn alive_while_everything_is_compared_now_and_then() {
        let state = state(vec![since(Code::ForwardingOff, 1)]);
        let at = |more: Duration| alive(&state, Duration::from_secs(100) + more);
        assert_eq!(at(Duration::ZERO), (true, "ok\n".to_owned()));
        assert!(at(SILENCE).0, "however bad the node is");
        let (is_alive, body) = at(SILENCE + Duration::from_secs(1));
        assert!(!is_alive);
        let expected = "the daemon is running, but has not compared anything for 31 s";
        assert_eq!(body, format!("daemon-stuck {expected}\n"));
    }

    #[test]
    fn only_a_lasting_down_is_not_ready_and_all_codes_are_listed() {
        let now = Duration::from_secs(101);
        assert_eq!(ready(&state(vec![]), now, 1_000), (true, "ready\n".to_owned()));
        let degraded = [
            since(Code::SourceStale, 700),
            since(Code::Unreachable, 995),
            since(Code::Unreachable, 990),
            Problem::new(Code::NoRoutes, "", ""),
        ];
        let (is_ready, body) = ready(&state(degraded.to_vec()), now, 1_000);
        assert!(is_ready, "an outage of the datastore turns no probe red");
        let lines = "node-unreachable degraded 2 times for 10s\n\
                     source-stale degraded for 5m\nno-routes info\n";
        assert_eq!(body, format!("ready\n{lines}"));
        let down = since(Code::ForwardingOff, 991);
        assert!(ready(&state(vec![down.clone()]), now, 1_000).0, "not yet");
        let (is_ready, body) = ready(&state(vec![down]), now, 1_001);
        assert!(!is_ready);
        assert_eq!(body, "not ready\nforwarding-off down for 10s\n");
        let late = now + SILENCE;
        let (is_ready, body) = ready(&state(vec![]), late, 1_000);
        assert!(!is_ready);
        assert_eq!(body, "not ready\ndaemon-stuck down\n");
    }
}
