//! What two looks have between them, as rows. Pure.

use std::{cmp::Ordering, time::Duration};

use dataplane_common::{Counter, Direction, Reason, Verdict};

use super::{
    View,
    look::{Entry, Look},
};
use crate::rate::Rate;

/// A cell: what is sorted by and what is shown.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// A name, or anything else in words.
    Text(String),
    /// So many since the beginning.
    Count(u64),
    /// So many a second; `None`: there is only one look yet.
    Rate(Option<f64>),
}

impl Cell {
    /// As it is shown: `1234`, `12.3k`, `4.56M`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => short(*count as f64, 0),
            Self::Rate(None) => "-".to_owned(),
            Self::Rate(Some(rate)) => short(*rate, 1),
        }
    }

    /// Whether it is aligned to the right.
    #[must_use]
    pub const fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Count(one), Self::Count(two)) => one.cmp(two),
            (Self::Rate(one), Self::Rate(two)) => {
                one.unwrap_or_default().total_cmp(&two.unwrap_or_default())
            }
            (one, two) => one.text().cmp(&two.text()),
        }
    }
}

/// A number with a unit of thousands where it is long; `digits` behind the point where it is not.
fn short(number: f64, digits: usize) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if number >= unit {
            let shown = number / if name == "k" { 1e3 } else { unit };
            return format!("{shown:.1}{name}");
        }
    }
    format!("{number:.digits$}")
}

/// What all programs have done between two looks.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Totals {
    /// Packets a second from pods to the wire and back; `None`: there is only one look yet.
    pub carried: Option<[f64; 2]>,
    /// The part of them that skipped the stack; `None`: there were none.
    pub fast: [Option<f64>; 2],
    /// Packets a second that programs dropped.
    pub dropped: f64,
}

/// A view's table.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// The names of its columns.
    pub columns: Vec<&'static str>,
    /// Its rows, in the order of the list.
    pub rows: Vec<Vec<Cell>>,
    /// How many rows more there are, which are not searched for.
    pub hidden: usize,
    /// What is shown above it.
    pub totals: Totals,
}

impl Table {
    /// What came between `before` and `now`; without `before` only what there is.
    #[must_use]
    pub fn between(before: Option<&Look>, now: &Look) -> Self {
        let before = before.filter(|before| before.view == now.view);
        let time = before.map(|before| now.at.duration_since(before.at));
        let rows = now.entries.iter().map(|(key, entry)| {
            let old = before.map(|before| before.entries.get(key));
            row(entry, old, time.unwrap_or_default())
        });
        Self {
            columns: columns(now.view).to_vec(),
            rows: rows.collect(),
            hidden: 0,
            totals: before
                .map(|before| {
                    totals(&before.reasons, &now.reasons, now.at.duration_since(before.at))
                })
                .unwrap_or_default(),
        }
    }

    /// Returns the rows that contain `text` in any of their words; upper and lower case are alike.
    #[must_use]
    pub fn matching(&self, text: &str) -> Self {
        let text = text.to_lowercase();
        let is_it =
            |cell: &Cell| matches!(cell, Cell::Text(it) if it.to_lowercase().contains(&text));
        let is_wanted = |row: &&Vec<Cell>| text.is_empty() || row.iter().any(is_it);
        let rows: Vec<_> = self.rows.iter().filter(is_wanted).cloned().collect();
        let hidden = self.rows.len() - rows.len();
        Self { columns: self.columns.clone(), rows, hidden, totals: self.totals }
    }

    /// Sorts by a column. Rows that are equal there stay in the order of the list.
    pub fn sort(&mut self, column: usize, is_descending: bool) {
        self.rows.sort_by(|one, two| {
            let order = match (one.get(column), two.get(column)) {
                (Some(one), Some(two)) => one.compare(two),
                _ => Ordering::Equal,
            };
            if is_descending { order.reverse() } else { order }
        });
    }
}

/// The column by which a view is sorted until a key says otherwise: the first rate.
#[must_use]
pub fn first_rate(view: View) -> usize {
    columns(view).iter().position(|name| name.ends_with("/s")).unwrap_or_default()
}

const fn columns(view: View) -> &'static [&'static str] {
    match view {
        View::Nodes => {
            &["NODE", "NAME", "DEV", "ROUTES", "out/s", "B/s", "in/s", "B/s", "OUT", "IN", "HEARD"]
        }
        View::Pods => {
            &["POD", "INTERFACE", "from/s", "B/s", "into/s", "B/s", "FROM POD", "INTO POD", ""]
        }
        View::Reasons => &["REASON", "HOOK", "VERDICT", "packets/s", "B/s", "PACKETS", "MEANING"],
        View::Leases => &[
            "SOURCE",
            "DESTINATION",
            "PROTO",
            "WAY",
            "NODE",
            "packets/s",
            "B/s",
            "PACKETS",
            "EXPIRES",
        ],
    }
}

/// `old`: what the same thing was before; `Some(None)`: it was not there.
fn row(entry: &Entry, old: Option<Option<&Entry>>, time: Duration) -> Vec<Cell> {
    let mut cells: Vec<Cell> = entry.names.iter().cloned().map(Cell::Text).collect();
    for (at, counter) in entry.counted.iter().enumerate() {
        let rate = old.map(|old| {
            let zero = Counter::default();
            let old = old.and_then(|old| old.counted.get(at)).unwrap_or(&zero);
            Rate::between(old, counter, time)
        });
        cells.push(Cell::Rate(rate.map(|rate| rate.packets_per_second)));
        cells.push(Cell::Rate(rate.map(|rate| rate.bytes_per_second)));
    }
    cells.extend(entry.counted.iter().map(|counter| Cell::Count(counter.packets)));
    cells.push(Cell::Text(entry.more.clone()));
    cells
}

fn totals(before: &[Counter], now: &[Counter], time: Duration) -> Totals {
    let (mut carried, mut fast, mut dropped) = ([0.0; 2], [0.0; 2], 0.0);
    for ((reason, before), now) in Reason::ALL.iter().zip(before).zip(now) {
        let packets = Rate::between(before, now, time).packets_per_second;
        let way = usize::from(reason.direction() == Direction::Decap);
        if reason.is_carried() {
            carried[way] += packets;
        }
        if reason.is_fast() {
            fast[way] += packets;
        }
        if reason.verdict() == Verdict::Dropped {
            dropped += packets;
        }
    }
    let share = |way: usize| (carried[way] > 0.0).then(|| fast[way] / carried[way]);
    Totals { carried: Some(carried), fast: [share(0), share(1)], dropped }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use super::{super::look::Key, *};

    const SECONDS: u64 = 2;

    fn counter(packets: u64, bytes: u64) -> Counter {
        Counter { packets, bytes }
    }

    fn look(view: View, at: Instant, entries: &[(u8, [Counter; 2])]) -> Look {
        let entry = |(last, counted): &(u8, [Counter; 2])| {
            let address = [10, 0, 0, *last].into();
            let names =
                vec![format!("10.0.0.{last}"), format!("Node{last}"), "eth0".into(), "1".into()];
            let entry = Entry { names, counted: counted.to_vec(), more: "now".into() };
            (Key::Address(address), entry)
        };
        let reasons = vec![Counter::default(); Reason::COUNT];
        let entries: BTreeMap<_, _> = entries.iter().map(entry).collect();
        Look { view, at, reasons, entries }
    }

    fn names(table: &Table) -> Vec<String> {
        table.rows.iter().map(|row| row[0].text()).collect()
    }

    #[test]
    fn rates_are_what_came_in_between() {
        let start = Instant::now();
        let later = start + Duration::from_secs(SECONDS);
        let zero = counter(0, 0);
        let before = look(View::Nodes, start, &[(2, [counter(10, 100), zero])]);
        let now = look(
            View::Nodes,
            later,
            &[(2, [counter(30, 500), zero]), (10, [counter(6, 60), zero])],
        );
        let mut table = Table::between(Some(&before), &now);
        assert_eq!(table.columns.len(), table.rows[0].len());
        assert_eq!(names(&table), ["10.0.0.2", "10.0.0.10"], "in the order of numbers");
        let rates = |row: &[Cell]| (row[4].clone(), row[5].clone(), row[8].clone());
        let rate = |number| Cell::Rate(Some(number));
        assert_eq!(rates(&table.rows[0]), (rate(10.0), rate(200.0), Cell::Count(30)));
        // What was not there before came since.
        assert_eq!(rates(&table.rows[1]), (rate(3.0), rate(30.0), Cell::Count(6)));
        table.sort(4, false);
        assert_eq!(names(&table), ["10.0.0.10", "10.0.0.2"]);
        table.sort(4, true);
        assert_eq!(names(&table), ["10.0.0.2", "10.0.0.10"]);
        // No such column.
        table.sort(99, true);
        // Counters were set to zero.
        let flushed = look(View::Nodes, later, &[(2, [counter(4, 40), zero])]);
        assert_eq!(Table::between(Some(&before), &flushed).rows[0][4], rate(2.0));
        // One look shows no rates, nor does one at something else.
        for before in [None, Some(&look(View::Pods, start, &[]))] {
            let table = Table::between(before, &now);
            assert_eq!((&table.rows[0][4], table.totals), (&Cell::Rate(None), Totals::default()));
        }
    }

    #[test]
    fn a_search_finds_words_and_hides_the_rest() {
        let counted = [counter(1, 1), counter(1, 1)];
        let looked = look(View::Nodes, Instant::now(), &[(2, counted), (10, counted)]);
        let table = Table::between(None, &looked);
        for (text, found) in [
            ("", &["10.0.0.2", "10.0.0.10"][..]),
            ("10.0.0.1", &["10.0.0.10"]),
            ("NODE2", &["10.0.0.2"]),
            ("eth", &["10.0.0.2", "10.0.0.10"]),
            ("nowhere", &[]),
        ] {
            let matching = table.matching(text);
            assert_eq!(names(&matching), found, "{text:?}");
            assert_eq!(matching.hidden, 2 - found.len());
        }
    }

    #[test]
    fn the_fast_share_is_of_what_is_carried() {
        let start = Instant::now();
        let later = start + Duration::from_secs(SECONDS);
        let (before, mut now) = (look(View::Nodes, start, &[]), look(View::Nodes, later, &[]));
        for (reason, packets) in [
            (Reason::PodEncapsulated, 60),
            (Reason::HostEncapsulated, 10),
            (Reason::Tunl0TooBig, 10),
            (Reason::PodNoLease, 500),
            (Reason::DecapForgedSource, 4),
        ] {
            now.reasons[reason as usize] = counter(packets, 0);
        }
        let totals = Table::between(Some(&before), &now).totals;
        assert_eq!(totals.carried, Some([40.0, 0.0]));
        assert_eq!(totals.fast, [Some(0.75), None]);
        assert!((totals.dropped - 2.0).abs() < 1e-9);
    }

    #[test]
    fn every_view_is_sorted_by_a_rate_and_long_numbers_are_short() {
        for view in View::ALL {
            assert!(columns(view)[first_rate(view)].ends_with("/s"), "{view:?}");
        }
        for (number, text) in [
            (0.0, "0.0"),
            (9_999.0, "9999.0"),
            (12_345.0, "12.3k"),
            (4_560_000.0, "4.6M"),
            (7.8e9, "7.8G"),
            (1.0e12, "1.0T"),
        ] {
            assert_eq!(Cell::Rate(Some(number)).text(), text);
        }
        assert_eq!(Cell::Count(9_999).text(), "9999");
    }
}
