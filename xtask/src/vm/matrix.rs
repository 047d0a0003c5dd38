//! What the checks of a suite's cases came to, as one table over all kernels:
//! for the terminal, and as a page in `docs`.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use tunless_vm::{
    checks::{Check, Outcome},
    suites::Suite,
};

use crate::workspace;

/// The checks of one suite.
pub struct Matrix {
    suite: &'static Suite,
    rows: Vec<Row>,
}

/// One case on one kernel.
struct Row {
    kernel: String,
    case: String,
    checks: Vec<Check>,
}

/// A table's cells, and what its small numbers stand for.
struct Cells {
    head: Vec<String>,
    body: Vec<Vec<String>>,
    notes: Vec<String>,
}

/// How many cells say what.
#[derive(Default)]
struct Tally {
    passed: usize,
    limited: usize,
    not_applicable: usize,
    failed: usize,
}

impl Matrix {
    /// Nothing yet.
    pub fn new(suite: &'static Suite) -> Self {
        Self { suite, rows: Vec::new() }
    }

    /// Adds what a kernel's guest reported. What failed outside of a check, maybe
    /// before the first one, has a row all the same.
    pub fn add(&mut self, release: &str, checks: &[(String, Check)], failed: &[String]) {
        if self.suite.parts.is_empty() {
            return;
        }
        let has_failed = |name: &String| {
            let is_it = |(case, check): &(String, Check)| {
                case == name && matches!(check.outcome, Outcome::Failed { .. })
            };
            checks.iter().any(is_it)
        };
        let otherwise = Check {
            name: "otherwise".to_owned(),
            outcome: Outcome::Failed { why: "as printed".to_owned() },
        };
        let outside = failed.iter().filter(|name| !has_failed(name));
        let outside: Vec<_> = outside.map(|name| (name.clone(), otherwise.clone())).collect();
        self.add_checks(release, checks);
        self.add_checks(release, &outside);
    }

    fn add_checks(&mut self, release: &str, checks: &[(String, Check)]) {
        for (case, check) in checks {
            let is_it = |row: &&mut Row| row.kernel == release && row.case == *case;
            if let Some(row) = self.rows.iter_mut().find(is_it) {
                row.checks.push(check.clone());
                continue;
            }
            let (kernel, case) = (release.to_owned(), case.clone());
            self.rows.push(Row { kernel, case, checks: vec![check.clone()] });
        }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn cells(&self) -> Cells {
        let mut columns: Vec<&str> = Vec::new();
        for check in self.rows.iter().flat_map(|row| &row.checks) {
            if !columns.contains(&check.name.as_str()) {
                columns.push(&check.name);
            }
        }
        let mut notes = Vec::new();
        let mut number = |why: &str| {
            let at = notes.iter().position(|note| note == why).unwrap_or_else(|| {
                notes.push(why.to_owned());
                notes.len() - 1
            });
            at + 1
        };
        let mut body = Vec::new();
        for row in &self.rows {
            let mut cells = vec![row.kernel.clone()];
            cells.extend(row.case.split("::").map(str::to_owned));
            for column in &columns {
                let found = row.checks.iter().find(|check| check.name == *column);
                cells.push(match found.map(|check| &check.outcome) {
                    None => String::new(),
                    Some(Outcome::Passed { note: None }) => "ok".to_owned(),
                    Some(Outcome::Passed { note: Some(note) }) => format!("ok, {note}"),
                    Some(Outcome::Limited { why }) => format!("limit [{}]", number(why)),
                    Some(Outcome::NotApplicable { why }) => format!("n/a [{}]", number(why)),
                    Some(Outcome::Failed { .. }) => "FAILED".to_owned(),
                });
            }
            body.push(cells);
        }
        let parts = self.suite.parts.iter().copied();
        let head = std::iter::once("kernel").chain(parts).chain(columns).map(str::to_owned);
        Cells { head: head.collect(), body, notes }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for check in self.rows.iter().flat_map(|row| &row.checks) {
            *match check.outcome {
                Outcome::Passed { .. } => &mut tally.passed,
                Outcome::Limited { .. } => &mut tally.limited,
                Outcome::NotApplicable { .. } => &mut tally.not_applicable,
                Outcome::Failed { .. } => &mut tally.failed,
            } += 1;
        }
        tally
    }

    fn summary(&self) -> String {
        let Tally { passed, limited, not_applicable, failed } = self.tally();
        format!(
            "{} cases, {} checks: {passed} ok, {limited} limits, {not_applicable} n/a, \
             {failed} failed",
            self.rows.len(),
            passed + limited + not_applicable + failed
        )
    }

    /// For the terminal, its columns aligned.
    pub fn text(&self) -> String {
        let Cells { head, body, notes } = self.cells();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(&body).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&body) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for (number, note) in (1..).zip(&notes) {
            text.push_str(&format!("[{number}] {note}\n"));
        }
        text.push_str(&format!("{}: {}\n", self.suite.name, self.summary()));
        text
    }

    /// The page: a table per kernel.
    fn page(&self) -> Result<String> {
        let Cells { head, body, notes } = self.cells();
        let Suite { name, about, .. } = self.suite;
        let mut text = format!(
            "# The suite `{name}`\n\n\
             Made by `cargo xtask vm test --suite {name} --write-docs`, in virtual machines with\n\
             Debian's kernels: {about}. What is checked, and how:\n\
             [tests/vm/src/suites/{name}](../tests/vm/src/suites/{name}).\n\n\
             - *ok*: it holds both ways, and the counters say that packets took the intended path.\n\
             - *limit*: it does not hold; the reason is known, and was counted in this run.\n\
             - *n/a*: it cannot be had, and tunless said so in this run.\n\n"
        );
        writeln!(text, "{}.", self.summary())?;
        let mut kernels: BTreeMap<usize, (&str, Vec<&[String]>)> = BTreeMap::new();
        for row in &body {
            let Some((kernel, cells)) = row.split_first() else { continue };
            let at = body.iter().position(|other| other.first() == Some(kernel)).unwrap_or(0);
            kernels.entry(at).or_insert_with(|| (kernel, Vec::new())).1.push(cells);
        }
        for (kernel, rows) in kernels.into_values() {
            writeln!(text, "\n## {kernel}\n")?;
            writeln!(text, "| {} |", head[1..].join(" | "))?;
            writeln!(text, "|{}", "---|".repeat(head.len() - 1))?;
            for row in rows {
                writeln!(text, "| {} |", row.join(" | "))?;
            }
        }
        if !notes.is_empty() {
            writeln!(text)?;
        }
        for (number, note) in (1..).zip(&notes) {
            writeln!(text, "- [{number}] {note}.")?;
        }
        Ok(text)
    }
}

/// Writes the suite's page; returns its path.
pub fn write_page(matrix: &Matrix) -> Result<String> {
    let name = matrix.suite.name;
    let path = format!("docs/{name}.md");
    fs::write(workspace::root().join(&path), matrix.page()?)
        .with_context(|| format!("cannot write {path}"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use tunless_vm::suites;

    use super::*;

    fn matrix() -> Matrix {
        let check = |case: &str, name: &str, outcome| {
            (case.to_owned(), Check { name: name.to_owned(), outcome })
        };
        let mut matrix = Matrix::new(&suites::interop::SUITE);
        let limit = || Outcome::Limited { why: "fragments".into() };
        let case = "replace::off::tunless+tunl0";
        for kernel in ["6.1", "7.2"] {
            let checks = [check(case, "ping", Outcome::GOOD), check(case, "pmtu", limit())];
            matrix.add(kernel, &checks, &[]);
        }
        matrix
    }

    #[test]
    fn a_row_is_a_case_on_a_kernel_and_a_note_has_one_number() {
        let text = matrix().text();
        assert_eq!(text.matches("limit [1]").count(), 2, "{text}");
        assert_eq!(text.matches("[1] fragments").count(), 1, "{text}");
        assert!(text.contains("2 cases, 4 checks: 2 ok, 2 limits, 0 n/a, 0 failed"), "{text}");
    }

    #[test]
    fn a_case_that_failed_before_its_first_check_has_a_row() {
        let mut matrix = matrix();
        matrix.add("6.1", &[], &["accelerate::off::tunless+tunl0".to_owned()]);
        let text = matrix.text();
        assert!(text.contains("3 cases, 5 checks: 2 ok, 2 limits, 0 n/a, 1 failed"), "{text}");
    }

    #[test]
    fn the_page_has_a_table_per_kernel() {
        let text = matrix().page().unwrap();
        assert!(text.contains("## 6.1\n") && text.contains("## 7.2\n"), "{text}");
        assert_eq!(text.matches("| replace | off | tunless+tunl0 | ok | limit [1] |").count(), 2);
    }
}
