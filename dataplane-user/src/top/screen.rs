//! How it looks.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout},
    style::{Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell as Shown, Paragraph, Row, Table as Widget},
};

use super::{
    View,
    keys::Keys,
    table::{Cell, Table, Totals},
};

const HELP: &str = "1-4 or Tab: view   \u{2190} \u{2192}: sort by   r: reverse   \u{2191} \u{2193}: scroll   \
                    space: pause   /: search   q: quit";
const TYPING: &str = "type what a row has to contain   Enter: keep it   Esc: show all rows";
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws a table that is sorted already.
pub fn draw(frame: &mut Frame<'_>, keys: &Keys, table: &Table, totals: &Totals) {
    let [summary, views, body, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(sums(totals)), summary);
    frame.render_widget(Paragraph::new(tabs(keys, table)), views);
    frame.render_widget(rows(keys, table), body);
    let is_typing = keys.search().is_some_and(|(_, is_typing)| is_typing);
    frame.render_widget(Paragraph::new(if is_typing { TYPING } else { HELP }), help);
}

fn sums(totals: &Totals) -> String {
    let Some([out, into]) = totals.carried else { return "measuring".to_owned() };
    let fast = |share: Option<f64>| {
        share.map_or_else(String::new, |share| format!(" ({:.0} % fast)", share * 100.0))
    };
    let shown = |rate: f64| Cell::Rate(Some(rate)).text();
    format!(
        "out {}/s{}   in {}/s{}   dropped {}/s",
        shown(out),
        fast(totals.fast[0]),
        shown(into),
        fast(totals.fast[1]),
        shown(totals.dropped),
    )
}

fn tabs(keys: &Keys, table: &Table) -> Line<'static> {
    let mut spans = Vec::new();
    for (at, view) in View::ALL.iter().enumerate() {
        let style = if *view == keys.view() { CHOSEN } else { Style::new() };
        spans.push(Span::styled(format!(" {} {} ", at + 1, view.as_str()), style));
    }
    let paused = if keys.is_paused() { ", paused" } else { "" };
    let rows = table.rows.len();
    let listed = match keys.search() {
        None => format!("{rows} listed"),
        Some((text, is_typing)) => {
            let cursor = if is_typing { "_" } else { "" };
            format!("{rows} of {} listed, /{text}{cursor}", rows + table.hidden)
        }
    };
    spans.push(Span::raw(format!("  {listed}{paused}")));
    Line::from(spans)
}

fn rows(keys: &Keys, table: &Table) -> Widget<'static> {
    let (sorted, is_descending) = keys.order();
    let is_number = |column: usize| {
        table.rows.first().and_then(|row| row.get(column)).is_some_and(Cell::is_number)
    };
    let align = |column| if is_number(column) { Alignment::Right } else { Alignment::Left };
    let arrow = if is_descending { "\u{25bc}" } else { "\u{25b2}" };
    let head = table.columns.iter().enumerate().map(|(column, name)| {
        let (name, style) = match column == sorted {
            true => (format!("{name}{arrow}"), CHOSEN),
            false => ((*name).to_owned(), STRONG),
        };
        Shown::from(Text::from(name).alignment(align(column))).style(style)
    });
    let cells = |row: &Vec<Cell>| {
        let shown = row.iter().enumerate();
        Row::new(
            shown
                .map(|(column, cell)| Text::from(cell.text()).alignment(align(column)))
                .collect::<Vec<_>>(),
        )
    };
    let widths: Vec<Constraint> = (0..table.columns.len())
        .map(|column| {
            let of_cells = table.rows.iter().filter_map(|row| Some(row.get(column)?.text().len()));
            let width = of_cells.max().unwrap_or_default();
            let head = table.columns[column].len() + usize::from(column == sorted);
            let width = u16::try_from(width.max(head)).unwrap_or(u16::MAX);
            match column + 1 == table.columns.len() {
                // What there is to say last has the rest.
                true => Constraint::Fill(1),
                false => Constraint::Length(width.max(if is_number(column) { 8 } else { 0 })),
            }
        })
        .collect();
    Widget::new(table.rows.iter().skip(keys.top()).map(cells), widths)
        .header(Row::new(head.collect::<Vec<_>>()))
        .column_spacing(2)
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::*;

    fn table() -> Table {
        let row = |name: &str, rate| {
            vec![
                Cell::Text(name.to_owned()),
                Cell::Text(format!("node{}", &name[name.len() - 1..])),
                Cell::Text("eth0".to_owned()),
                Cell::Text("2".to_owned()),
                Cell::Rate(Some(rate)),
                Cell::Rate(Some(rate * 100.0)),
                Cell::Rate(None),
                Cell::Rate(None),
                Cell::Count(3),
                Cell::Count(4),
                Cell::Text("0.1s ago".to_owned()),
            ]
        };
        Table {
            columns: vec![
                "NODE", "NAME", "DEV", "ROUTES", "out/s", "B/s", "in/s", "B/s", "OUT", "IN",
                "HEARD",
            ],
            rows: vec![row("172.16.35.4", 12.5), row("172.16.35.5", 23_456.0)],
            hidden: 0,
            totals: Totals {
                carried: Some([23_468.5, 7.0]),
                fast: [Some(0.98), None],
                dropped: 0.5,
            },
        }
    }

    fn shown(keys: &mut Keys, (width, height): (u16, u16)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let table = keys.arrange(&table());
        terminal.draw(|frame| draw(frame, keys, &table, &table.totals)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_screen_has_sums_views_rows_and_help() {
        let mut keys = Keys::new(View::Nodes);
        let lines = shown(&mut keys, (110, 7));
        assert_eq!(lines[0], "out 23.5k/s (98 % fast)   in 7.0/s   dropped 0.5/s");
        assert_eq!(lines[1], " 1 nodes  2 pods  3 reasons  4 leases   2 listed");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(&lines[2]),
            [
                "NODE",
                "NAME",
                "DEV",
                "ROUTES",
                "out/s\u{25bc}",
                "B/s",
                "in/s",
                "B/s",
                "OUT",
                "IN",
                "HEARD"
            ]
        );
        let first = [
            "172.16.35.5",
            "node5",
            "eth0",
            "2",
            "23.5k",
            "2.3M",
            "-",
            "-",
            "3",
            "4",
            "0.1s",
            "ago",
        ];
        assert_eq!(words(&lines[3]), first, "the busiest first");
        assert!(lines[4].starts_with("172.16.35.4 "), "{lines:?}");
        assert!(lines[6].ends_with("q: quit"), "{lines:?}");
        keys.press(KeyCode::Down.into(), 10, 2);
        keys.press(KeyCode::Char(' ').into(), 10, 2);
        let lines = shown(&mut keys, (110, 7));
        assert!(
            lines[1].ends_with("2 listed, paused") && lines[3].starts_with("172.16.35.4 "),
            "{lines:?}"
        );
    }

    #[test]
    fn a_search_is_in_the_status_line() {
        let mut keys = Keys::new(View::Nodes);
        for code in ['/', 'N', 'o', 'd', 'e', '4'] {
            keys.press(KeyCode::Char(code).into(), 11, 2);
        }
        let lines = shown(&mut keys, (110, 7));
        assert!(lines[1].ends_with("  1 of 2 listed, /Node4_"), "{lines:?}");
        assert!(lines[3].starts_with("172.16.35.4 ") && lines[4].is_empty(), "{lines:?}");
        assert!(lines[6].contains("Esc: show all rows"), "{lines:?}");
        keys.press(KeyCode::Enter.into(), 11, 1);
        let lines = shown(&mut keys, (110, 7));
        assert!(lines[1].ends_with("  1 of 2 listed, /Node4"), "{lines:?}");
        assert!(lines[6].ends_with("q: quit"), "{lines:?}");
        keys.press(KeyCode::Esc.into(), 11, 1);
        assert!(shown(&mut keys, (110, 7))[1].ends_with("  2 listed"));
    }

    /// Nothing panics where there is no room.
    #[test]
    fn a_small_terminal_shows_what_it_can() {
        for size in [(1, 1), (5, 3), (20, 2), (200, 4)] {
            for view in View::ALL {
                shown(&mut Keys::new(view), size);
            }
        }
    }

    #[test]
    fn before_the_second_look_there_is_nothing_to_sum() {
        assert_eq!(sums(&Totals::default()), "measuring");
    }
}
