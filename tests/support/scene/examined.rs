//! What `tunless doctor` says of a node.

use serde_json::Value;
use tunless_lab::Daemon;

/// The rows of one run.
#[derive(Debug)]
pub struct Rows {
    /// The exit code.
    pub status: Option<i32>,
    /// All of them.
    pub items: Vec<Value>,
}

impl Rows {
    /// Runs `tunless doctor` with `arguments`, where the daemon's node is.
    pub fn of(daemon: &Daemon, arguments: &[&str]) -> Self {
        let output = daemon.cli(&[&["doctor", "-o", "json"], arguments].concat()).unwrap();
        assert_eq!(output.stderr, "", "nothing but rows");
        let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(answer["apiVersion"], "tunless/v1");
        let items = answer["items"].as_array().expect("rows").clone();
        let is_failed = items.iter().any(|row| row["verdict"] == "FAIL");
        assert_eq!(output.status, Some(if is_failed { 3 } else { 0 }), "{items:#?}");
        Self { status: output.status, items }
    }

    /// The rows of a check with this verdict.
    pub fn all(&self, check: &str, verdict: &str) -> Vec<&Value> {
        let is_wanted = |row: &&Value| row["check"] == check && row["verdict"] == verdict;
        self.items.iter().filter(is_wanted).collect()
    }

    /// The one row of a check with this verdict, whose text has all these parts.
    pub fn one(&self, check: &str, verdict: &str, parts: &[&str]) -> &Value {
        let rows = self.all(check, verdict);
        let [row] = rows[..] else {
            panic!("{} rows {verdict} {check} in {:#?}", rows.len(), self.items)
        };
        for part in parts {
            assert!(row["what"].as_str().unwrap().contains(part), "no {part:?} in {row:#}");
        }
        row
    }

    /// Panics where a check failed that is not one of these.
    pub fn assert_only(&self, checks: &[&str]) {
        let failed = self.items.iter().filter(|row| row["verdict"] == "FAIL");
        let failed: Vec<&Value> =
            failed.filter(|row| !checks.contains(&row["check"].as_str().unwrap())).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}
