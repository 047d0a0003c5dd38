//! `tunless doctor`

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    bpf::Pins,
    doctor::{self, Row, Verdict},
    exit::Exit,
    output::{self, Format},
};

/// For `--help`.
pub const EXAMPLES: &str = "Examples:
  tunless doctor
  tunless doctor --peer 172.16.35.4
  tunless doctor --peer node1 --peer 10.20.42.31 -o json";

/// Examines this node, and the peers; exit code 3 if a row fails.
pub async fn doctor(pins: &Pins, config: &Path, peers: &[String], format: Format) -> Result<Exit> {
    let begun = Instant::now();
    let rows = doctor::examine(pins, config, peers).await;
    match format {
        Format::Table => output::text(&describe(&rows, begun.elapsed()))?,
        Format::Wide | Format::Json | Format::Yaml => output::list(format, &rows)?,
    }
    let is_well = rows.iter().all(|row| row.verdict != Verdict::Fail);
    Ok(if is_well { Exit::Ok } else { Exit::No })
}

/// A line for each row, and one with what to do; at last, what it comes to and how long it took.
fn describe(rows: &[Row], took: Duration) -> String {
    let mut lines = Vec::new();
    let width = rows.iter().map(|row| row.check.as_str().len()).max().unwrap_or_default();
    for Row { check, verdict, subject, what, remedy } in rows {
        let place = if subject.is_empty() { String::new() } else { format!("{subject}: ") };
        lines.push(format!("{} {:<width$}  {place}{what}", verdict.as_str(), check.as_str()));
        lines.extend(remedy.as_ref().map(|remedy| format!("     {:<width$}  → {remedy}", "")));
    }
    let count = |wanted| rows.iter().filter(|row| row.verdict == wanted).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    let rows = output::count(rows.len(), "row");
    let warnings = output::count(warned, "warning");
    lines.push(format!("{rows}: {failed} failed, {warnings}, in {:.1} s", took.as_secs_f64()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;

    #[test]
    fn a_remedy_stands_under_its_row() {
        let rows = [
            Row::pass(Check::Kernel, "6.12"),
            Row::new(Check::Peers, Verdict::Fail, "172.16.35.4", "never heard").remedy("ask it"),
        ];
        assert_eq!(
            describe(&rows, Duration::from_millis(1250)),
            "PASS kernel  6.12\n\
             FAIL peers   172.16.35.4: never heard\n             → ask it\n\
             2 rows: 1 failed, 0 warnings, in 1.2 s"
        );
    }
}
