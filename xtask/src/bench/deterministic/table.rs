//! The rows as people read them. Columns are endpoints (`ep`) and flows (`fl`).

use std::{collections::BTreeMap, fmt::Write as _};

use super::rows::UDP;
use crate::bench::results::Deterministic;

/// A table per kernel and load.
pub fn text(rows: &[Deterministic]) -> String {
    let mut kernels: BTreeMap<&str, Vec<&Deterministic>> = BTreeMap::new();
    for row in rows {
        kernels.entry(&row.kernel).or_default().push(row);
    }
    let mut text = String::new();
    for (kernel, rows) in kernels {
        let udp = rows.iter().filter(|row| row.load == UDP);
        let _ = writeln!(
            text,
            "kernel {kernel}: 64-byte UDP, net cost per packet, tunl0 = 1.00 (thousand packets/s)"
        );
        text.push_str(&grid(
            udp.copied(),
            |row| {
                let ratio =
                    row.net_cost_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}"));
                format!("{ratio} ({:.1})", row.pps.unwrap_or_default() / 1e3)
            },
            |row| format!("{} ep {} fl", row.endpoints, row.flows),
        ));
        let _ = writeln!(text, "\nkernel {kernel}: TCP, time for the same, tunl0 = 1.00");
        let tcp = rows.iter().filter(|row| row.load != UDP);
        text.push_str(&grid(
            tcp.copied(),
            |row| row.time_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
            |row| format!("{} {}", &row.load["tcp_".len()..], row.endpoints),
        ));
        let _ = writeln!(text, "\nkernel {kernel}: instructions per run of each program");
        for row in rows.iter().filter(|row| !row.programs.is_empty()) {
            let programs: Vec<String> = row
                .programs
                .iter()
                .map(|program| format!("{} {:.0}", shown(&program.name), program.instructions))
                .collect();
            let _ = writeln!(
                text,
                "{:<20} {:>3} endpoints: {}",
                row.path,
                row.endpoints,
                programs.join(", ")
            );
        }
        text.push('\n');
    }
    text
}

fn shown(name: &str) -> &str {
    if name.is_empty() { "(nameless)" } else { name }
}

/// Paths downwards, columns as `column` calls them, in the order they come.
fn grid<'a>(
    rows: impl Iterator<Item = &'a Deterministic>,
    cell: impl Fn(&Deterministic) -> String,
    column: impl Fn(&Deterministic) -> String,
) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut lines: Vec<(&str, BTreeMap<String, String>)> = Vec::new();
    for row in rows {
        let name = column(row);
        if !columns.contains(&name) {
            columns.push(name.clone());
        }
        let cell = cell(row);
        match lines.iter_mut().find(|(path, _)| *path == row.path) {
            Some((_, cells)) => drop(cells.insert(name, cell)),
            None => lines.push((&row.path, BTreeMap::from([(name, cell)]))),
        }
    }
    let mut text = format!("{:<20}", "path");
    columns.iter().for_each(|name| text.push_str(&format!("{name:>16}")));
    for (path, cells) in lines {
        text.push_str(&format!("\n{path:<20}"));
        for name in &columns {
            text.push_str(&format!("{:>16}", cells.get(name).map_or("", String::as_str)));
        }
    }
    text.push('\n');
    text
}
