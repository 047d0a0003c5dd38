//! A panel of lines over time. Pure.

use std::fmt::Write as _;

use tunless_lab::dashboard::Panel;

use super::{
    page::{Area, Series, colour},
    unit,
};
use crate::screens::svg::escape;

/// Grafana's first colours of series.
pub const PALETTE: [&str; 10] = [
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0",
    "#37872d", "#fade2a",
];
const GRID: &str = "#2c3038";
const FAINT: &str = "#8e8e9e";
/// Pixels for the values beside the lines, for the time below them, and for a row of the legend.
const LEFT: f64 = 58.0;
const BELOW: f64 = 16.0;
const LEGEND_ROW: f64 = 15.0;
/// Rows of a legend: what has no room there is counted.
const LEGEND_ROWS: usize = 2;
/// Pixels of a small and of a large letter of the legend, on average, and of the mark in front of a name.
const LETTER: f64 = 6.2;
const CAPITAL: f64 = 8.0;
const MARK: f64 = 18.0;
/// Steps of the values, and of the time.
const STEPS: u32 = 4;

/// Draws the series in their order.
pub fn draw(panel: &Panel, series: &[&Series], span: f64, area: Area) -> String {
    let legend = legend(series, area.width);
    let rows = f64::from(u32::try_from(legend.len()).unwrap_or_default());
    let plot = Area {
        x: area.x + LEFT,
        y: area.y,
        width: area.width - LEFT - 4.0,
        height: area.height - BELOW - rows * LEGEND_ROW,
    };
    let lines = if panel.is_stacked { stacked(series) } else { plain(series) };
    let top = panel.max.unwrap_or_else(|| ceiling(&lines));
    let mut svg = axes(panel, span, top, plot);
    for (number, line) in lines.iter().enumerate() {
        // Only the last of equal ones is seen.
        if lines[number + 1..].contains(line) {
            continue;
        }
        let at = |(time, value): &(f64, f64)| {
            let x = plot.x + time / span.max(1.0) * plot.width;
            let y = plot.y + plot.height - (value / top).clamp(0.0, 1.0) * plot.height;
            format!("{x:.0},{y:.1}")
        };
        let points: Vec<String> = bends(line).iter().map(at).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"/>",
            points.join(" "),
            colour(number),
        );
    }
    let mut y = plot.y + plot.height + BELOW + LEGEND_ROW - 3.0;
    for row in legend {
        for Entry { x, number, text } in row {
            let x = area.x + x;
            if let Some(number) = number {
                let _ = writeln!(
                    svg,
                    "<path d=\"M{x:.0} {:.0}h12\" stroke=\"{}\" stroke-width=\"3\"/>",
                    y - 4.0,
                    colour(number),
                );
            }
            let _ =
                writeln!(svg, "<text x=\"{:.0}\" y=\"{y:.0}\">{}</text>", x + MARK, escape(&text));
        }
        y += LEGEND_ROW;
    }
    svg
}

/// The grid, with values on the left and seconds below.
fn axes(panel: &Panel, span: f64, top: f64, plot: Area) -> String {
    let mut svg = format!("<g fill=\"{FAINT}\" font-size=\"10\">\n");
    for step in 0..=STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        let y = plot.y + plot.height * (1.0 - share);
        let _ = writeln!(
            svg,
            "<path d=\"M{:.0} {y:.1}h{:.0}\" stroke=\"{GRID}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
            plot.x,
            plot.width,
            plot.x - 6.0,
            y + 3.0,
            escape(&unit::shown(&panel.unit, top * share)),
        );
        let x = plot.x + plot.width * share;
        let anchor = if step == STEPS { "end" } else { "middle" };
        let _ = writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{:.0} s</text>",
            plot.y + plot.height + 12.0,
            span * share,
        );
    }
    svg + "</g>\n"
}

fn plain(series: &[&Series]) -> Vec<Vec<(f64, f64)>> {
    series.iter().map(|series| series.points.clone()).collect()
}

/// Each line on top of those before it, by their places in the list: all have the same times.
fn stacked(series: &[&Series]) -> Vec<Vec<(f64, f64)>> {
    let mut lines: Vec<Vec<(f64, f64)>> = Vec::new();
    for series in series {
        let below = lines.last();
        let on_top = series.points.iter().enumerate().map(|(at, (time, value))| {
            let base = below.and_then(|line| line.get(at)).map_or(0.0, |(_, value)| *value);
            (*time, base + value)
        });
        lines.push(on_top.collect());
    }
    lines
}

/// A round number that no value is above: 1, 2, 4, 6 or 8 with zeros, which four steps divide well.
fn ceiling(lines: &[Vec<(f64, f64)>]) -> f64 {
    let highest = lines.iter().flatten().map(|(_, value)| *value).fold(0.0, f64::max);
    if highest <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0];
    steps.map(|step| step * decade).into_iter().find(|top| *top >= highest).unwrap_or(highest)
}

/// The points without those between two of the same value: most series hardly change.
fn bends(line: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let is_bend = |at: usize| {
        let value = |at: usize| line.get(at).map(|(_, value)| *value);
        at == 0 || value(at - 1) != value(at) || value(at + 1) != value(at)
    };
    (0..line.len()).filter(|at| is_bend(*at)).map(|at| line[at]).collect()
}

/// A name in the legend.
#[derive(Debug, PartialEq)]
struct Entry {
    /// From the left edge of the legend.
    x: f64,
    /// Of its series; `None` for what is said about those that have no room.
    number: Option<usize>,
    text: String,
}

/// The names in rows, as many as fit; then how many do not.
fn legend(series: &[&Series], width: f64) -> Vec<Vec<Entry>> {
    let more = |left: usize| format!("and {left} more");
    let mut rows: Vec<Vec<Entry>> = vec![Vec::new()];
    let mut x = 0.0;
    for (number, name) in series.iter().map(|series| &series.name).enumerate() {
        let left = series.len() - number;
        if x > 0.0 && x + takes(name) > width && rows.len() < LEGEND_ROWS {
            rows.push(Vec::new());
            x = 0.0;
        }
        let reserve = if rows.len() == LEGEND_ROWS && left > 1 { takes(&more(left)) } else { 0.0 };
        let has_room = x == 0.0 || x + takes(name) + reserve <= width;
        let (number, text) = match has_room {
            true => (Some(number), shortened(name, width - x - reserve)),
            false => (None, more(left)),
        };
        let end = x + takes(&text);
        if let Some(row) = rows.last_mut() {
            row.push(Entry { x, number, text });
        }
        if !has_room {
            break;
        }
        x = end;
    }
    rows
}

/// The room that a name takes, in pixels, with its mark and a gap behind it.
fn takes(name: &str) -> f64 {
    let letter = |letter: char| if letter.is_uppercase() { CAPITAL } else { LETTER };
    MARK + name.chars().map(letter).sum::<f64>() + 10.0
}

/// The name, cut where it does not fit.
fn shortened(name: &str, room: f64) -> String {
    if takes(name) <= room {
        return name.to_owned();
    }
    let mut kept = name.to_owned();
    while takes(&kept) + LETTER > room && kept.pop().is_some() {}
    kept + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use tunless_lab::dashboard::Place;

    use super::*;

    const AREA: Area = Area { x: 0.0, y: 0.0, width: 162.0, height: 131.0 };

    fn panel(max: Option<f64>, is_stacked: bool) -> Panel {
        Panel {
            title: String::new(),
            kind: "timeseries".into(),
            place: Place { x: 0, y: 0, width: 8, height: 8 },
            unit: "percentunit".into(),
            max,
            is_stacked,
            targets: Vec::new(),
        }
    }

    fn series(values: &[f64]) -> Series {
        let points = (0..).map(f64::from).zip(values.iter().copied()).collect();
        Series { name: "x".into(), points }
    }

    fn lines(svg: &str) -> Vec<&str> {
        let starts = svg.split("<polyline points=\"").skip(1);
        starts.filter_map(|rest| Some(rest.split_once('"')?.0)).collect()
    }

    /// The plot is 100 by 100 pixels, from 58 on.
    #[test]
    fn lines_are_drawn_to_scale() {
        let one = series(&[0.0, 0.5, 1.0]);
        let svg = draw(&panel(Some(1.0), false), &[&one, &one], 2.0, AREA);
        assert_eq!(lines(&svg), ["58,100.0 108,50.0 158,0.0"], "the second is on top of the first");
        for text in [">0%<", ">25%<", ">100%<", ">0 s<", ">2 s<"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        let svg = draw(&panel(Some(2.0), true), &[&one, &one], 2.0, AREA);
        assert_eq!(lines(&svg), ["58,100.0 108,75.0 158,50.0", "58,100.0 108,50.0 158,0.0"]);
    }

    #[test]
    fn the_axis_ends_at_a_round_number() {
        for (highest, expected) in
            [(0.0, 1.0), (0.03, 0.04), (1.0, 1.0), (1.1, 2.0), (730.0, 800.0), (9000.0, 10_000.0)]
        {
            let top = ceiling(&[vec![(0.0, highest)], vec![(0.0, 0.0)]]);
            assert!((top - expected).abs() < 1e-9, "{highest}: {top}");
        }
    }

    #[test]
    fn what_does_not_change_has_few_points() {
        let line: Vec<(f64, f64)> = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
            .into_iter()
            .zip(0..)
            .map(|(v, t)| (t.into(), v))
            .collect();
        let times: Vec<f64> = bends(&line).iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [0.0, 2.0, 3.0, 5.0, 6.0]);
        assert_eq!(bends(&[]), []);
    }

    #[test]
    fn a_legend_counts_what_has_no_room() {
        let named = |name: &str| Series { name: name.into(), points: Vec::new() };
        let many: Vec<Series> = (10..60).map(|number| named(&format!("node{number}"))).collect();
        let rows = legend(&many.iter().collect::<Vec<_>>(), 300.0);
        assert_eq!(rows.len(), LEGEND_ROWS);
        let last = rows[1].last().unwrap();
        let shown = rows.iter().flatten().filter(|entry| entry.number.is_some()).count();
        assert_eq!((last.number, last.text.clone()), (None, format!("and {} more", 50 - shown)));
        assert!(shown >= 6, "{shown}");
        let rows = legend(&[&named("one"), &named("two")], 300.0);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].iter().filter_map(|entry| entry.number).collect::<Vec<_>>(), [0, 1]);
        // A name that is wider than the panel is cut.
        let rows = legend(&[&named(&"x".repeat(99))], 300.0);
        let name = &rows[0][0].text;
        assert!(name.ends_with("xx\u{2026}") && takes(name) <= 300.0, "{name}");
        assert_eq!(shortened("anything", 0.0), "\u{2026}");
    }
}
