//! The rows as people read them. Columns are endpoints (`ep`) and flows (`fl`).

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{CellAlignment, Table, TableStyle};

use super::rows::{SERVICE, UDP};
use crate::bench::results::Deterministic;

/// A table per kernel and load.
pub fn text(rows: &[Deterministic]) -> String {
    let mut kernels: BTreeMap<&str, Vec<&Deterministic>> = BTreeMap::new();
    for row in rows {
        kernels.entry(&row.kernel).or_default().push(row);
    }
    let mut text = String::new();
    for (kernel, rows) in kernels {
        for (load, to) in [(UDP, "a pod"), (SERVICE, "a Service")] {
            let udp = rows.iter().filter(|row| row.load == load && row.routes.is_none());
            let _ = writeln!(
                text,
                "kernel {kernel}: 64-byte UDP to {to}, net cost per packet, tunl0 = 1.00 (thousand \
                 packets/s)"
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
            text.push('\n');
        }
        let _ = writeln!(text, "kernel {kernel}: TCP, time for the same, tunl0 = 1.00");
        let tcp = rows.iter().filter(|row| row.load != UDP && row.load != SERVICE);
        text.push_str(&grid(
            tcp.copied(),
            |row| row.time_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}")),
            |row| format!("{} {}", row.load.trim_start_matches("tcp_"), row.endpoints),
        ));
        let _ = writeln!(
            text,
            "\nkernel {kernel}: time for the same beside `off`: none may be above 1"
        );
        text.push_str(&beside_off(&rows));
        let _ = writeln!(text, "\nkernel {kernel}: 64-byte UDP, net cost per packet by routes");
        let by_routes = rows.iter().filter(|row| row.routes.is_some());
        text.push_str(&grid(
            by_routes.copied(),
            |row| row.net_cost_ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.4}")),
            |row| format!("{} ep {} routes", row.endpoints, row.routes.unwrap_or_default()),
        ));
        let _ = writeln!(text, "\nkernel {kernel}: instructions per run of each program");
        let with_programs =
            rows.iter().filter(|row| !row.programs.is_empty() && row.routes.is_none());
        for row in with_programs {
            let programs: Vec<String> = row
                .programs
                .iter()
                .map(|program| format!("{} {:.0}", shown(&program.name), program.instructions))
                .collect();
            let _ = writeln!(
                text,
                "{:<20} {:<9} {:>3} endpoints: {}",
                row.path,
                row.load,
                row.endpoints,
                programs.join(", ")
            );
        }
        text.push('\n');
    }
    text
}

/// What the fast path does to each load: its time by that of the stack path.
fn beside_off(rows: &[&Deterministic]) -> String {
    let fast = rows.iter().filter(|row| row.path == "verified");
    let off = |of: &Deterministic| {
        let key = |row: &Deterministic| (row.load.clone(), row.endpoints, row.flows, row.routes);
        let is_it = |row: &&&Deterministic| row.path == "off" && key(row) == key(of);
        rows.iter().find(is_it).map(|row| row.nanoseconds)
    };
    let load = |row: &Deterministic| match (row.routes, row.flows) {
        (Some(routes), _) => format!("{}, {routes} routes", row.load),
        (None, 1) => row.load.clone(),
        (None, flows) => format!("{}, {flows} flows", row.load),
    };
    grid_by(
        ("load", load),
        fast.copied(),
        |row| off(row).map_or("–".to_owned(), |off| format!("{:.3}", row.nanoseconds / off)),
        |row| format!("{} ep", row.endpoints),
    )
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
    grid_by(("path", |row: &Deterministic| row.path.clone()), rows, cell, column)
}

/// As [`grid`], with what `line` calls a row downwards, under its title.
fn grid_by<'a>(
    (title, line): (&str, impl Fn(&Deterministic) -> String),
    rows: impl Iterator<Item = &'a Deterministic>,
    cell: impl Fn(&Deterministic) -> String,
    column: impl Fn(&Deterministic) -> String,
) -> String {
    let mut columns: Vec<String> = Vec::new();
    let mut lines: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for row in rows {
        let name = column(row);
        if !columns.contains(&name) {
            columns.push(name.clone());
        }
        let (cell, line) = (cell(row), line(row));
        match lines.iter_mut().find(|(found, _)| *found == line) {
            Some((_, cells)) => drop(cells.insert(name, cell)),
            None => lines.push((line, BTreeMap::from([(name, cell)]))),
        }
    }
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_header([title].into_iter().chain(columns.iter().map(String::as_str)));
    for (line, cells) in &lines {
        let cell = |name| cells.get(name).map_or("", String::as_str);
        table.add_row([line.as_str()].into_iter().chain(columns.iter().map(cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_place_and_a_hole_stays_one() {
        let row = |path: &str, load: &str, endpoints, ratio| Deterministic {
            kernel: "6.12.1".into(),
            path: path.into(),
            load: load.into(),
            endpoints,
            flows: 1,
            routes: None,
            nanoseconds: 1.0,
            time_ratio: Some(ratio),
            pps: Some(50_000.0),
            net_cost_ratio: Some(ratio),
            programs: Vec::new(),
        };
        let text = text(&[
            row("tunl0", UDP, 0, 1.0),
            row("tunl0", UDP, 50, 1.0),
            row("tunl0", "tcp_rr", 0, 1.0),
            row("verified", UDP, 50, 0.25),
            row("verified", "tcp_rr", 0, 0.5),
            row("verified", SERVICE, 50, 0.125),
            Deterministic { routes: Some(100_000), ..row("verified", UDP, 50, 0.75) },
        ]);
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["path", "0", "ep", "1", "fl", "50", "ep", "1", "fl"], "{text}");
        assert_eq!(words[2], ["tunl0", "1.000", "(50.0)", "1.000", "(50.0)"], "{text}");
        assert_eq!(words[3], ["verified", "0.250", "(50.0)"], "{text}");
        // Under its own column.
        let ends = |line: usize| text.lines().nth(line).map(str::len);
        assert_eq!(ends(3), ends(2), "{text}");
        assert!(text.contains("50 ep 100000 routes"), "{text}");
        assert!(words.contains(&vec!["verified", "0.125", "(50.0)"]), "{text}");
        assert!(words.contains(&vec!["verified", "0.7500"]), "{text}");
        assert!(text.contains("rr 0") && words.contains(&vec!["verified", "0.500"]), "{text}");
    }
}
