//! The pictures, each with the command that it shows.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tunless_lab::terminal::{self, Size};

use super::{cluster::Cluster, dashboard, drawing, screen::Screen};
use crate::interrupt;

/// A picture. Those of a healthy cluster come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// The dashboard for Grafana, with the figures of a minute.
    Dashboard,
    /// `tunless status`
    Status,
    /// `tunless top nodes`
    TopNodes,
    /// `tunless top reasons`
    TopReasons,
    /// `tunless top leases`
    TopLeases,
    /// `tunless trace --drops`, while packets with spoofed sources come
    Trace,
    /// `tunless doctor --peer`, which finds a path that is too narrow, and warns of spoofed sources
    Doctor,
}

/// What `tunless trace` prints where the kernel lets no program be watched.
const REFUSED: [&str; 2] = ["the kernel refuses the program", "Operation not permitted"];

/// Time for a few packets.
const A_MOMENT: Duration = Duration::from_millis(500);

/// A command, and what has to be on its screen.
struct Shot {
    /// What is typed after `tunless`.
    line: String,
    size: Size,
    /// Its exit code.
    status: i32,
    /// Each of them has to be there: a picture that shows something else is not worth a commit.
    words: &'static [&'static str],
}

impl Shot {
    fn new(line: &str, (columns, rows): (u16, u16), words: &'static [&'static str]) -> Self {
        Self { line: line.to_owned(), size: Size { columns, rows }, status: 0, words }
    }
}

impl Picture {
    /// Its name, as it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Its file in `docs/screens`.
    pub fn file(self) -> String {
        format!("{}.svg", self.name())
    }

    /// Takes it; `None` where the kernel does not allow what is shown.
    ///
    /// # Errors
    /// If what it is taken of cannot be had, or does not show what the picture is for.
    pub fn make(self, cluster: &mut Cluster) -> Result<Option<String>> {
        let shot = match self {
            Self::Dashboard => return dashboard::make(cluster).map(Some),
            Self::Status => Shot::new("status", (120, 60), &["ready", "fast path"]),
            Self::TopNodes => Shot::new(
                "top nodes --for 4s",
                (100, 8),
                &["172.16.35.4", "172.16.34.7", "% fast", "/s"],
            ),
            Self::TopReasons => Shot::new(
                "top reasons --for 4s",
                (120, 24),
                &["pod_encapsulated", "decap_to_pod", "decap_forged_source", "/s"],
            ),
            Self::TopLeases => Shot::new(
                "top leases --for 4s",
                (120, 15),
                &["10.20.105.215", "encap", "decap", "EXPIRES"],
            ),
            Self::Trace => Shot::new(
                "trace --drops --for 3s -c 12",
                (130, 40),
                &["decap_forged_source", "dropped"],
            ),
            Self::Doctor => {
                let spoofer = cluster.spoof()?;
                interrupt::sleep(A_MOMENT)?;
                spoofer.finish()?;
                cluster.narrow_path()?;
                let peer = cluster.lab.node1.ip;
                Shot {
                    status: 3,
                    ..Shot::new(
                        &format!("doctor --peer {peer}"),
                        (120, 80),
                        &[
                            "WARN spoofs",
                            "FAIL peer-mtu",
                            "above 1400 bytes vanish",
                            "PASS peer-tunnel",
                        ],
                    )
                }
            }
        };
        if matches!(self, Self::TopReasons | Self::Trace) {
            let _spoofer = cluster.spoof()?;
            return take(cluster, &shot);
        }
        take(cluster, &shot)
    }
}

fn take(cluster: &Cluster, shot: &Shot) -> Result<Option<String>> {
    let arguments: Vec<&str> = shot.line.split(' ').collect();
    let daemon = cluster.daemon();
    let output = terminal::run(&daemon.tunless().command(&arguments)?, shot.size)?;
    let node = &cluster.lab.node2;
    let printed = as_on_a_host(&output.stdout, &daemon.config_path(), &node.bpffs);
    let screen = Screen::read(printed.as_bytes(), shot.size)?;
    let text = screen.text();
    if REFUSED.iter().all(|words| output.stdout.contains(words)) {
        return Ok(None);
    }
    ensure!(
        output.status == Some(shot.status),
        "`tunless {}` ended with {:?}:\n{text}",
        shot.line,
        output.status
    );
    let missing = shot.words.iter().find(|word| !text.contains(**word));
    ensure!(missing.is_none(), "`tunless {}` shows no {missing:?}:\n{text}", shot.line);
    Ok(Some(drawing::draw(&screen, &format!("{}# tunless {}", node.label, shot.line))))
}

/// What was printed, with the paths that an operator has: nodes of a lab share one disk, so their files have
/// other names in each run. Of the kernel's release its version is shown, without the name of its build.
fn as_on_a_host(printed: &str, config: &Path, pins: &Path) -> String {
    let config = config.display().to_string();
    let printed = printed.replace(&config, "/etc/tunless/config.yaml");
    let printed = printed.replace(&pins.display().to_string(), "/sys/fs/bpf/tunless");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match release.trim().split_once('-') {
        Some((version, _)) => printed.replace(release.trim(), version),
        None => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        assert_eq!(Picture::TopNodes.file(), "top-nodes.svg");
        assert_eq!(
            Picture::value_variants().last(),
            Some(&Picture::Doctor),
            "the fault comes last"
        );
    }

    #[test]
    fn paths_of_the_lab_are_not_shown() {
        let printed = "PASS /run/lab/a.yaml is active\r\nFAIL /sys/fs/bpf/lab/node2/links";
        let shown =
            as_on_a_host(printed, Path::new("/run/lab/a.yaml"), Path::new("/sys/fs/bpf/lab/node2"));
        assert_eq!(
            shown,
            "PASS /etc/tunless/config.yaml is active\r\nFAIL /sys/fs/bpf/tunless/links"
        );
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let shown = as_on_a_host(release.trim(), Path::new("/x"), Path::new("/y"));
        assert_eq!(Some(shown.as_str()), release.trim().split('-').next());
    }
}
