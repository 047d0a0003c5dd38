//! What does a namespace hold that `tunless` could have made?
//!
//! A snapshot before the daemon starts and one after `tunless detach` must be
//! equal. It holds links (with XDP programs), addresses, rules and routes of
//! all tables, qdiscs and TC filters, the nftables ruleset and sysctls; no
//! counters, no neighbours, nothing else that changes by itself.
//!
//! TCX programs are not in it: neither `ip` nor Debian 12's `bpftool` shows
//! them. A TCX link lives by its pin or its process, so once both are gone
//! (a `Daemon` sees to that) so is the program; [`programs`] counts what is
//! left machine-wide.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cmd, netns::Netns};

/// A namespace's state: what was asked, and every line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, Vec<String>>);

impl Snapshot {
    /// Takes one.
    pub fn take(netns: &Netns) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for command in [
            "ip -o addr",
            "ip rule",
            "ip route show table all",
            "tc qdisc show",
            // Stateless: without the counters of rules.
            "nft -s list ruleset",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            let text = netns.exec(words[0], &words[1..])?;
            sections.insert(command.to_owned(), lines(&text));
        }
        let links = links(netns)?;
        for link in links.iter().filter_map(|link| link["ifname"].as_str()) {
            for hook in ["ingress", "egress"] {
                let args = ["filter", "show", "dev", link, hook];
                // It fails where there is no clsact: then there is no filter.
                let output = netns.try_exec("tc", &args, Duration::from_secs(10))?;
                if output.success() && !output.stdout.trim().is_empty() {
                    sections.insert(format!("tc {}", args.join(" ")), lines(&output.stdout));
                }
            }
        }
        sections.insert("links".to_owned(), links.iter().flat_map(describe).collect());
        sections.insert("sysctls".to_owned(), netns.run(sysctls)?);
        Ok(Self(sections))
    }

    /// What `later` has (`+`) or lacks (`-`), a line each; empty when equal.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let mut all: Vec<&String> = self.0.keys().chain(later.0.keys()).collect();
        all.sort();
        all.dedup();
        let none = Vec::new();
        let mut found = Vec::new();
        for section in all {
            let before = self.0.get(section).unwrap_or(&none);
            let after = later.0.get(section).unwrap_or(&none);
            let only_in = |here: &[String], there: &[String], sign: char| {
                let missing = here.iter().filter(|line| !there.contains(line));
                missing.map(|line| format!("{sign} {section}: {line}")).collect::<Vec<_>>()
            };
            found.extend(only_in(before, after, '-'));
            found.extend(only_in(after, before, '+'));
        }
        found
    }
}

/// How many loaded BPF programs have one of these names, on the whole machine:
/// for a test that runs alone.
pub fn programs(names: &[&str]) -> Result<usize> {
    let text = cmd::check(Command::new("bpftool").args(["-j", "prog", "show"]), b"")?;
    let json: Value = serde_json::from_str(&text).context("bpftool printed no JSON")?;
    // The kernel keeps the first 15 characters of a name.
    let ours = |name: &str| names.iter().any(|full| full.get(..15).unwrap_or(full) == name);
    let programs = json.as_array().context("bpftool printed no list")?;
    Ok(programs.iter().filter(|program| program["name"].as_str().is_some_and(ours)).count())
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

fn links(netns: &Netns) -> Result<Vec<Value>> {
    let text = netns.ip("-d -j link show")?;
    serde_json::from_str(&text).context("ip printed no list")
}

/// A link, a line for each property; not whether it has a carrier, which the
/// kernel notices a second late.
fn describe(link: &Value) -> Vec<String> {
    let properties = link.as_object().into_iter().flatten();
    let name = link["ifname"].as_str().unwrap_or_default();
    properties
        .filter(|(key, _)| *key != "operstate")
        .map(|(key, value)| match (key.as_str(), value.as_array()) {
            ("flags", Some(flags)) => {
                let lasting = |flag: &&Value| *flag != "NO-CARRIER" && *flag != "LOWER_UP";
                format!("{name} flags {:?}", flags.iter().filter(lasting).collect::<Vec<_>>())
            }
            _ => format!("{name} {key} {value}"),
        })
        .collect()
}

/// Every readable sysctl of IPv4 and conntrack, in the calling thread's
/// namespace.
fn sysctls() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for dir in ["/proc/sys/net/ipv4", "/proc/sys/net/netfilter"] {
        collect(Path::new(dir), &mut found);
    }
    // It counts, as its name says.
    found.retain(|line| !line.starts_with("/proc/sys/net/netfilter/nf_conntrack_count"));
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    // Not there without conntrack, and some files can only be written.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.push(format!("{} = {}", path.display(), value.trim_end()));
        }
    }
}
