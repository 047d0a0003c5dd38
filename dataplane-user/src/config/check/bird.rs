//! What cannot be said of BIRD.

use super::Problem;
use crate::config::BirdConfig;

/// How often BIRD may be asked, milliseconds: oftener is work for nothing, and more
/// seldom than once a minute is no following.
const POLL: std::ops::RangeInclusive<u64> = 100..=60_000;
/// How long its sessions may be waited for, seconds: BIRD itself gives a graceful
/// restart up to 240 by default.
const SETTLE: std::ops::RangeInclusive<u64> = 1..=3600;

pub fn check(bird: &BirdConfig, problems: &mut Vec<Problem>) {
    let mut refuse = |key: &'static str, what: String, remedy: String| {
        problems.push(Problem::new(["sources".into(), "bird".into(), key.into()], what, remedy));
    };
    if !bird.socket.is_absolute() {
        refuse(
            "socket",
            format!("{} is not an absolute path", bird.socket.display()),
            "name BIRD's control socket, like /run/bird/bird.ctl".to_owned(),
        );
    }
    // It becomes part of a command, and BIRD has no other names without quotes.
    let first = bird.table.bytes().next();
    let is_name = bird.table.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || first.is_none_or(|byte| byte.is_ascii_digit()) {
        refuse(
            "table",
            format!("`{}` is no name of a table in BIRD", bird.table),
            "use letters, digits and _, as in `birdc show symbols table`; by default BIRD 2 has \
             master4 and BIRD 1.6 has master"
                .to_owned(),
        );
    }
    if !POLL.contains(&bird.poll_milliseconds) {
        refuse(
            "poll_milliseconds",
            format!("every {} ms BIRD cannot be asked", bird.poll_milliseconds),
            format!("use {} to {}", POLL.start(), POLL.end()),
        );
    }
    if !SETTLE.contains(&bird.settle_seconds) {
        refuse(
            "settle_seconds",
            format!("{} s is no time to wait for sessions", bird.settle_seconds),
            format!("use {} to {}", SETTLE.start(), SETTLE.end()),
        );
    }
}
