//! What a run may not leave behind on the machine.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tunless_lab::systemd::control_groups;

use super::outcome::Outcome;

/// Namespaces of the lab bear this prefix.
const LAB_PREFIX: &str = "tl";

/// Things on this machine that tests make, each in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at the host's network namespace, control groups and the BPF file system.
    pub fn find() -> Result<Self> {
        let mut found = BTreeSet::new();
        for name in names(Path::new("/run/netns")) {
            if name.starts_with(LAB_PREFIX) {
                found.insert(format!("network namespace {name}"));
            }
        }
        for name in names(Path::new("/sys/class/net")) {
            found.insert(format!("interface {name}"));
        }
        found.extend(control_groups().into_iter().map(|name| format!("control group {name}")));
        pins(Path::new("/sys/fs/bpf"), &mut found);
        found.extend(tables()?);
        Ok(Self(found))
    }

    /// Says what an earlier run or `demo --keep` left: it may explain a failure.
    pub fn mention(&self) {
        let lab = self.0.iter().filter(|trace| trace.starts_with("network namespace "));
        for trace in lab {
            println!("note: {trace} is there already, from a kept demo or a run that was killed");
        }
    }

    /// One case: nothing is here that was not `before`.
    pub fn left_since(&self, before: &Self) -> Outcome {
        let mut outcome = Outcome::default();
        for trace in self.0.difference(&before.0) {
            outcome.fail(format!("{trace} was left behind"));
        }
        if outcome.failed == 0 {
            outcome.passed = 1;
        }
        outcome
    }
}

/// Names in a directory; one that is not there has none.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn pins(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(format!("pin {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pins(&path, found);
        }
    }
}

fn tables() -> Result<Vec<String>> {
    let output = Command::new("nft")
        .args(["--json", "list", "tables"])
        .output()
        .context("`nft` does not start")?;
    ensure!(
        output.status.success(),
        "`nft list tables` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listing = serde_json::from_slice(&output.stdout).context("nft printed no JSON")?;
    Ok(table_names(&listing))
}

fn table_names(listing: &Value) -> Vec<String> {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    objects
        .filter_map(|object| {
            let table = object.get("table")?;
            let (family, name) = (table["family"].as_str()?, table["name"].as_str()?);
            Some(format!("nftables table {family} {name}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(names: &[&str]) -> Traces {
        Traces(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn only_what_is_new_counts() {
        let before = traces(&["interface eth0", "network namespace tl-kept"]);
        let clean = traces(&["interface eth0"]).left_since(&before);
        assert_eq!((clean.passed, clean.failed), (1, 0));

        let dirty = traces(&["interface eth0", "pin /sys/fs/bpf/tunless"]).left_since(&before);
        assert_eq!((dirty.passed, dirty.failed), (0, 1));
        assert_eq!(dirty.failures, ["pin /sys/fs/bpf/tunless was left behind"]);
    }

    #[test]
    fn nft_tables_are_read() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "nat", "handle": 2}},
            {"table": {"family": "inet", "name": "fabric", "handle": 3}},
        ]});
        let expected = ["nftables table ip nat", "nftables table inet fabric"];
        assert_eq!(table_names(&listing), expected);
        assert!(table_names(&Value::Null).is_empty());
    }
}
