//! `target/bench/latest.json`: what was measured last, a row for each figure.
//!
//! All parts share the file; a part replaces its own rows and no others.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::ratio::Ratio;
use crate::workspace;

/// All there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// In no order that means anything.
    pub rows: Vec<Row>,
}

/// One figure, or a few that belong together; `"bench"` names the part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "bench", rename_all = "lowercase")]
pub enum Row {
    /// A way from pod to pod on this machine's kernel.
    Native(Native),
    /// A way from pod to pod under a clock that counts instructions.
    Deterministic(Deterministic),
    /// A program by itself.
    Cost(Cost),
    /// The daemon of a large cluster's node.
    Scale(Scale),
    /// The fast path while something changes every second.
    Churn(Churn),
}

impl Row {
    /// Whether two rows are of the same part.
    fn same_part(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A way from pod to pod on this machine's kernel, beside plain routing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Native {
    /// `plain`, `vxlan`, `off`, `verified`, `trusted`.
    pub path: String,
    /// `tcp_bulk`, …
    pub load: String,
    /// Local pods whose chains the ruleset has.
    pub endpoints: u32,
    /// How many rounds.
    pub rounds: u32,
    /// Of speeds, to plain routing in the same round.
    pub ratio_to_plain: Ratio,
}

/// A way from pod to pod in the emulator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deterministic {
    /// The kernel's release.
    pub kernel: String,
    /// `tunl0`, `verified`, …
    pub path: String,
    /// `udp64`, …
    pub load: String,
    /// Local pods whose chains the ruleset has.
    pub endpoints: u32,
    /// Flows at the same time.
    pub flows: u32,
    /// Routes in the map of each node, where that is what is measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub routes: Option<u32>,
    /// What one packet, MiB, transaction or connection took, of the guest's time.
    pub nanoseconds: f64,
    /// That, tunl0's being 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time_ratio: Option<f64>,
    /// Packets a second at the receiving pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pps: Option<f64>,
    /// Net cost per packet, tunl0's being 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub net_cost_ratio: Option<f64>,
    /// BPF programs on the packets' way.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub programs: Vec<Program>,
}

/// What one program on a packet's way does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// How often it runs for one packet.
    pub runs: f64,
    /// How many instructions a run takes, with all helpers that it calls and with
    /// the taking of the time.
    pub instructions: f64,
}

/// What a program takes for one packet by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Its name.
    pub program: String,
    /// The fast path it was loaded for.
    pub fastpath: String,
    /// What became of the packet: the reason it was counted under.
    pub outcome: String,
    /// Whether that is what the program is for.
    pub hit: bool,
    /// The pod's frame, bytes.
    pub bytes: u32,
    /// Entries of the map of routes.
    pub routes: u32,
    /// Whether the table of leases is full.
    pub leases_full: bool,
    /// On this machine and its kernel.
    pub nanoseconds: f64,
    /// In the emulator.
    pub instructions: f64,
}

/// One figure of the daemon of a large cluster's node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// What was measured.
    pub what: String,
    /// How much that is.
    pub value: f64,
    /// Of what.
    pub unit: String,
}

/// How many packets take the fast path while something changes every second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Flows of UDP.
    pub flows: u32,
    /// Packets a second of each, answers not counted.
    pub rate: u32,
    /// What changes.
    pub change: String,
    /// Of all packets, both nodes' and both directions', %.
    pub share: f64,
    /// Packets that met a lease which a change had ended.
    pub ended: u64,
}

impl Results {
    /// Puts a part's new rows in the place of its old ones.
    fn replace(&mut self, rows: Vec<Row>) {
        self.rows.retain(|old| !rows.iter().any(|new| new.same_part(old)));
        self.rows.extend(rows);
    }

    /// What the file says; nothing if there is none yet.
    fn read(file: &Path) -> Result<Self> {
        match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is not of this version: remove it", file.display())),
        }
    }

    fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Replaces the rows of the part that these are of; where they are now.
pub fn merge(rows: Vec<Row>) -> Result<PathBuf> {
    let directory = workspace::root().join("target/bench");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join("latest.json");
    let mut results = Results::read(&file)?;
    results.replace(rows);
    results.write(&file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn native(path: &str) -> Row {
        Row::Native(Native {
            path: path.into(),
            load: "tcp_bulk".into(),
            endpoints: 0,
            rounds: 3,
            ratio_to_plain: Ratio { median: 0.9, min: 0.8, max: 1.0 },
        })
    }

    fn deterministic(path: &str) -> Row {
        Row::Deterministic(Deterministic {
            kernel: "6.12.1".into(),
            path: path.into(),
            load: "udp64".into(),
            endpoints: 50,
            flows: 1,
            routes: None,
            nanoseconds: 21_930.0,
            time_ratio: None,
            pps: Some(45_600.0),
            net_cost_ratio: None,
            programs: Vec::new(),
        })
    }

    #[test]
    fn the_file_says_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("latest.json");
        assert_eq!(Results::read(&file).unwrap(), Results::default());
        let results = Results { rows: vec![native("off"), deterministic("verified")] };
        results.write(&file).unwrap();
        assert_eq!(Results::read(&file).unwrap(), results);
        fs::write(&file, r#"{"rows": [{"bench": "astrology"}]}"#).unwrap();
        let error = format!("{:#}", Results::read(&file).unwrap_err());
        assert!(error.contains("latest.json is not of this version: remove it"), "{error}");
    }

    #[test]
    fn a_part_replaces_its_own_rows_only() {
        let mut results =
            Results { rows: vec![native("off"), deterministic("verified"), native("trusted")] };
        results.replace(vec![native("plain")]);
        assert_eq!(results.rows, [deterministic("verified"), native("plain")]);
        results.replace(vec![]);
        assert_eq!(results.rows.len(), 2);
    }

    #[test]
    fn a_row_is_as_people_read_it() {
        assert_eq!(
            serde_json::to_value(deterministic("verified")).unwrap(),
            json!({
                "bench": "deterministic", "kernel": "6.12.1", "path": "verified", "load": "udp64",
                "endpoints": 50, "flows": 1, "nanoseconds": 21_930.0, "pps": 45_600.0,
            })
        );
    }
}
