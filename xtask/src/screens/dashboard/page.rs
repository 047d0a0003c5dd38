//! Panels with their series as one SVG, laid out as the dashboard's JSON has them. Pure.

use std::fmt::Write as _;

use tunless_lab::dashboard::Panel;

use super::{
    chart::{self, PALETTE},
    unit,
};
use crate::screens::svg::escape;

/// Pixels of a unit of the dashboard's grid.
const ACROSS: f64 = 40.0;
const DOWN: f64 = 27.0;
/// Between panels.
const GAP: f64 = 6.0;
/// The bar with the dashboard's title.
const BAR: f64 = 34.0;
/// Units of the grid across.
const GRID: f64 = 24.0;
/// Of the page, and of a panel.
const BACKGROUND: &str = "#111217";
const PANEL: &str = "#181b1f";
const TEXT: &str = "#ccccdc";
/// Grafana's, of a value that no threshold has another for.
const VALUE: &str = "#73bf69";

/// A line of a panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As in the legend.
    pub name: String,
    /// Seconds from the start, and the value then.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Whether it has something to show.
    fn is_lively(&self) -> bool {
        self.points.iter().any(|(_, value)| *value != 0.0)
    }

    fn last(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value)
    }
}

/// A rectangle, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Its left edge.
    pub x: f64,
    /// Its upper edge.
    pub y: f64,
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
}

/// Draws a dashboard of this title; `span`: the seconds that all series are from.
pub fn draw(title: &str, panels: &[(Panel, Vec<Series>)], span: f64) -> String {
    let end = panels.iter().map(|(panel, _)| panel.place.y + panel.place.height).max();
    let (width, height) =
        (GRID * ACROSS + GAP, BAR + f64::from(end.unwrap_or_default()) * DOWN + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" font-family=\"Inter, Helvetica, Arial, \
         sans-serif\" font-size=\"11\" fill=\"{TEXT}\">\n\
         <title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{BACKGROUND}\"/>\n\
         <text x=\"{x}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n",
        title = escape(title),
        x = 2.0 * GAP,
    );
    for (panel, series) in panels {
        svg += &drawn(panel, series, span);
    }
    svg + "</svg>\n"
}

fn drawn(panel: &Panel, series: &[Series], span: f64) -> String {
    let place = panel.place;
    let area = Area {
        x: GAP + f64::from(place.x) * ACROSS,
        y: BAR + f64::from(place.y) * DOWN,
        width: f64::from(place.width) * ACROSS - GAP,
        height: f64::from(place.height) * DOWN - GAP,
    };
    let Area { x, y, width, height } = area;
    let mut svg = format!(
        "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"2\" \
         fill=\"{PANEL}\"/>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" font-size=\"12\" font-weight=\"bold\">{}</text>\n",
        x + 8.0,
        y + 17.0,
        escape(&panel.title),
    );
    let inner = Area { x: x + 8.0, y: y + 26.0, width: width - 16.0, height: height - 32.0 };
    if series.iter().all(|series| series.points.is_empty()) {
        let (x, y) = (x + width / 2.0, y + height / 2.0);
        let _ =
            writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">No data</text>");
    } else if panel.kind == "stat" {
        svg += &stat(panel, series, inner);
    } else {
        // What is always 0 comes last, or it would fill the legend.
        let (mut ordered, quiet): (Vec<_>, Vec<_>) =
            series.iter().partition(|series| series.is_lively());
        ordered.extend(quiet);
        svg += &chart::draw(panel, &ordered, span, inner);
    }
    svg
}

/// The last value of each series, one beside the other.
fn stat(panel: &Panel, series: &[Series], area: Area) -> String {
    let mut svg = String::new();
    let count = u32::try_from(series.len()).unwrap_or(u32::MAX).max(1);
    let width = area.width / f64::from(count);
    let mut x = area.x + width / 2.0;
    for series in series {
        let value = series.last().map_or_else(String::new, |value| unit::shown(&panel.unit, value));
        let y = area.y + area.height / 2.0 + 8.0;
        let _ = writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"30\" text-anchor=\"middle\" fill=\"{VALUE}\">{}</text>",
            escape(&value),
        );
        if !series.name.is_empty() {
            let y = area.y + area.height - 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">{}</text>",
                escape(&series.name),
            );
        }
        x += width;
    }
    svg
}

/// The colour of the series with this number.
pub fn colour(number: usize) -> &'static str {
    PALETTE[number % PALETTE.len()]
}

#[cfg(test)]
mod tests {
    use tunless_lab::dashboard::Place;

    use super::*;

    fn panel(kind: &str) -> Panel {
        Panel {
            title: "A < B".into(),
            kind: kind.into(),
            place: Place { x: 12, y: 4, width: 12, height: 8 },
            unit: "pps".into(),
            max: None,
            is_stacked: false,
            targets: Vec::new(),
        }
    }

    fn series(name: &str, values: &[f64]) -> Series {
        let points = (0..).map(f64::from).zip(values.iter().copied()).collect();
        Series { name: name.into(), points }
    }

    #[test]
    fn a_panel_has_its_place_and_its_title() {
        let svg = draw("d", &[(panel("timeseries"), vec![series("x&y", &[1.0, 2.0, 4.0])])], 2.0);
        assert!(svg.contains("<rect x=\"486\" y=\"142\" width=\"474\" height=\"210\""), "{svg}");
        assert!(svg.contains(">A &lt; B</text>"), "{svg}");
        assert!(svg.contains(">x&amp;y</text>"), "{svg}");
        assert!(svg.contains("viewBox=\"0 0 966 364\""), "{svg}");
    }

    #[test]
    fn a_number_is_the_last_value() {
        let both = vec![series("0.1.1", &[3.0, 1500.0]), series("", &[2.0])];
        let svg = draw("d", &[(panel("stat"), both)], 2.0);
        for text in [">1.5 Kp/s</text>", ">2 p/s</text>", ">0.1.1</text>"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("<polyline"), "{svg}");
    }

    #[test]
    fn what_is_always_zero_comes_last_and_nothing_is_no_data() {
        let both = vec![series("quiet", &[0.0, 0.0]), series("lively", &[0.0, 1.0])];
        let svg = draw("d", &[(panel("timeseries"), both)], 2.0);
        assert!(svg.find(">lively<") < svg.find(">quiet<"), "{svg}");
        for none in [vec![], vec![series("x", &[])]] {
            assert!(draw("d", &[(panel("stat"), none)], 2.0).contains(">No data</text>"));
        }
    }
}
