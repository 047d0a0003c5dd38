//! The programs against `verifier-budget.json`: how many instructions they have
//! as the verifier leaves them, and how many it walks to be sure of them. A
//! sudden rise means that a copy became a call or a loop was unrolled.

use std::{env, fmt, fs, path::Path};

use dataplane_common::Settings;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use tunless_tests::{
    prog::{Loaded, Program, Size},
    world,
};

/// How far a count may grow before somebody has to look, in percent.
const ROOM: u32 = 10;
/// How many more instructions another kernel's verifier may walk, in percent: it
/// prunes differently, and 6.1 was seen to walk 8 % more than 6.12 to 7.2.
const OTHER_KERNEL: u32 = 25;
const RENEW: &str = "If it is meant to be so, renew tests/verifier-budget.json by \
                     `BLESS=1 cargo test -p tunless-tests --test prog budget` (as root), and say \
                     why in the commit.";

/// `verified`, with leases of flows to Services.
const SERVICES: &str = "verified, services";

/// `verified`, with all that may be leased.
const ALL: &str = "verified, services and unanswered UDP";

/// The whole file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// `6.18`: whose verifier did the walking.
    kernel: String,
    programs: Vec<Line>,
}

/// One program, loaded one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    program: String,
    fastpath: String,
    spoof: String,
    device: String,
    verified: u32,
    verified_max: u32,
    xlated: u32,
    xlated_max: u32,
}

impl Line {
    /// Whether two lines are about the same.
    fn is_about(&self, other: &Self) -> bool {
        let key = |line: &Self| line.to_string();
        key(self) == key(other)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, fastpath, spoof, device, .. } = self;
        write!(f, "{program}, fastpath {fastpath}, spoof {spoof}, on {device}")
    }
}

#[test]
fn programs_keep_within_their_budget() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("verifier-budget.json");
    let found = Budget { kernel: series(), programs: measure() };
    if env::var_os("BLESS").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
        fs::write(&file, text).unwrap();
        return;
    }
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}. {RENEW}"));
    let budget: Budget = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("tests/verifier-budget.json: {error}. {RENEW}"));
    let wrong = judge(&budget, &found);
    assert!(wrong.is_empty(), "\n{}\n{RENEW}", wrong.join("\n"));
}

/// What is not as the budget says, a line for each.
fn judge(budget: &Budget, found: &Budget) -> Vec<String> {
    let (more, note) = if budget.kernel == found.kernel {
        (0, String::new())
    } else {
        let Budget { kernel, .. } = found;
        let note = format!(
            " (the budget is of kernel {}, this is {kernel}: {OTHER_KERNEL} % more are allowed)",
            budget.kernel
        );
        (OTHER_KERNEL, note)
    };
    let mut wrong = Vec::new();
    for line in &found.programs {
        let Some(allowed) = budget.programs.iter().find(|allowed| allowed.is_about(line)) else {
            wrong.push(format!("{line}: not in the budget"));
            continue;
        };
        let (verified, xlated) = (percent_more(allowed.verified_max, more), allowed.xlated_max);
        // A kernel before 5.16 says 0.
        if line.verified > verified {
            wrong.push(format!(
                "{line}: the verifier walks {} instructions, {verified} are allowed{note}",
                line.verified
            ));
        }
        if line.xlated > xlated {
            wrong.push(format!("{line}: {} instructions, {xlated} are allowed", line.xlated));
        }
    }
    for line in &budget.programs {
        if !found.programs.iter().any(|found| found.is_about(line)) {
            wrong.push(format!("{line}: in the budget, but there is no such program any more"));
        }
    }
    wrong
}

fn measure() -> Vec<Line> {
    let fastpaths = [
        ("off", Settings::OFF),
        ("trusted", Settings::TRUSTED),
        ("verified", Settings::VERIFIED),
        (SERVICES, Settings::VERIFIED),
        (ALL, Settings::VERIFIED),
    ];
    let spoofs = [("drop", Settings::SPOOF_DROP), ("stack", Settings::SPOOF_STACK)];
    let devices = [("tunless0", 14), ("tunl0", 0)];
    let mut lines = Vec::new();
    for (fastpath, fast) in fastpaths {
        for (spoof, spoofs) in spoofs {
            for (device, tunnel_header) in devices {
                let mut settings = Settings { tunnel_header, ..world::settings(fast, spoofs) };
                if fastpath == SERVICES || fastpath == ALL {
                    settings = world::with_services(settings);
                }
                if fastpath == ALL {
                    settings = world::with_unanswered(settings);
                }
                let mut loaded = Loaded::with(settings, &[]);
                // Settings make no difference to those that only look, and only tunl0 has a shadow.
                let has_shadow = fastpath == fastpaths[0].0 && tunnel_header == 0;
                let programs = Program::ALL.iter().filter(|it| has_shadow || !it.is_shadow());
                for program in programs.copied() {
                    let Size { verified, translated } = loaded.size(program);
                    lines.push(Line {
                        program: program.to_string(),
                        fastpath: fastpath.into(),
                        spoof: spoof.into(),
                        device: device.into(),
                        verified,
                        verified_max: percent_more(verified, ROOM),
                        xlated: translated,
                        xlated_max: percent_more(translated, ROOM),
                    });
                }
            }
        }
    }
    lines
}

const fn percent_more(count: u32, percent: u32) -> u32 {
    (count * (100 + percent)).div_ceil(100)
}

/// `6.18` of `6.18.5-amd64`.
fn series() -> String {
    let name = uname().expect("the kernel has a name");
    let release = name.release().to_string_lossy().into_owned();
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(program: &str, verified: u32, xlated: u32) -> Line {
        Line {
            program: program.into(),
            fastpath: "off".into(),
            spoof: "drop".into(),
            device: "tunless0".into(),
            verified,
            verified_max: percent_more(verified, ROOM),
            xlated,
            xlated_max: percent_more(xlated, ROOM),
        }
    }

    fn budget(kernel: &str, programs: &[Line]) -> Budget {
        Budget { kernel: kernel.into(), programs: programs.to_vec() }
    }

    #[test]
    fn growth_beyond_the_room_is_told() {
        let allowed = budget("6.18", &[line("a", 1000, 200)]);
        let judged =
            |verified, xlated| judge(&allowed, &budget("6.18", &[line("a", verified, xlated)]));
        assert_eq!(judged(1100, 220), Vec::<String>::new());
        assert_eq!(
            judged(1101, 221),
            [
                "a, fastpath off, spoof drop, on tunless0: the verifier walks 1101 instructions, \
                 1100 are allowed",
                "a, fastpath off, spoof drop, on tunless0: 221 instructions, 220 are allowed",
            ]
        );
    }

    #[test]
    fn another_kernel_may_walk_more_but_has_the_same_program() {
        let allowed = budget("6.18", &[line("a", 1000, 200)]);
        let judged =
            |verified, xlated| judge(&allowed, &budget("6.1", &[line("a", verified, xlated)]));
        assert_eq!(judged(1375, 220), Vec::<String>::new());
        assert!(judged(1376, 220)[0].ends_with("this is 6.1: 25 % more are allowed)"));
        assert_eq!(judged(1000, 221).len(), 1);
    }

    #[test]
    fn a_missing_line_and_one_too_many_are_told() {
        let wrong =
            judge(&budget("6.18", &[line("old", 1, 1)]), &budget("6.18", &[line("new", 1, 1)]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("new, ") && wrong[0].ends_with("not in the budget"));
        assert!(wrong[1].starts_with("old, ") && wrong[1].ends_with("no such program any more"));
    }
}
