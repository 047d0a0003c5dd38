//! The figure that matters as a picture: net cost per packet of every path.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result, ensure};

use super::rows::{SERVICE, UDP};
use crate::{bench::results::Deterministic, workspace};

/// What the picture shows: a node with rules for some pods, and one flow.
const ENDPOINTS: u32 = 50;
const FLOWS: u32 = 1;

/// Pixels.
const BAR: usize = 22;
const LEFT: usize = 170;
const WIDTH: f64 = 420.0;

/// Writes docs/bench.svg; where it is.
pub fn write(rows: &[Deterministic]) -> Result<String> {
    let path = workspace::root().join("docs/bench.svg");
    let picture = picture(rows);
    ensure!(picture.contains("<rect"), "there is nothing to draw: measure tunl0 and base first");
    fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(workspace::shown(&path))
}

/// A group of bars per kernel and load, the shortest on top.
fn picture(rows: &[Deterministic]) -> String {
    let to = |load: &str| match load {
        UDP => Some("a pod"),
        SERVICE => Some("a Service"),
        _ => None,
    };
    let mut bars: Vec<((&str, &str), &str, f64)> = rows
        .iter()
        .filter(|row| row.routes.is_none() && row.endpoints == ENDPOINTS && row.flows == FLOWS)
        .filter_map(|row| Some(((&*row.kernel, to(&row.load)?), &*row.path, row.net_cost_ratio?)))
        .collect();
    bars.sort_by(|a, b| a.0.cmp(&b.0).then(a.2.total_cmp(&b.2)));
    let longest = bars.iter().map(|(_, _, ratio)| *ratio).fold(1.0, f64::max);

    let (mut body, mut y, mut last) = (String::new(), 24, ("", ""));
    for (group, path, ratio) in bars {
        if group != last {
            y += BAR;
            let (kernel, to) = group;
            let _ = writeln!(
                body,
                r#"<text x="0" y="{y}" font-weight="bold">kernel {kernel}: net cost per 64-byte packet to {to}, tunl0 = 1</text>"#
            );
            (y, last) = (y + BAR / 2, group);
        }
        let width = ratio / longest * WIDTH;
        let colour = if is_ours(path) { "#2a7f62" } else { "#9aa5b1" };
        let base = y + BAR * 2 / 3;
        #[expect(clippy::cast_precision_loss, reason = "pixels")]
        let end = LEFT as f64 + width + 6.0;
        let _ = writeln!(
            body,
            r#"<text x="{}" y="{base}" text-anchor="end">{path}</text><rect x="{LEFT}" y="{y}" width="{width:.1}" height="{}" fill="{colour}"/><text x="{end:.1}" y="{base}">{ratio:.2}</text>"#,
            LEFT - 8,
            BAR - 6,
        );
        y += BAR;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"660\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        y + 10
    )
}

/// Whether a path is one of tunless.
fn is_ours(path: &str) -> bool {
    ["off", "verified", "trusted"].iter().any(|fastpath| path.ends_with(fastpath))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_is_on_top_and_what_is_not_comparable_is_left_out() {
        let row = |path: &str, endpoints, net_cost_ratio| Deterministic {
            kernel: "6.12.1".into(),
            path: path.into(),
            load: UDP.into(),
            endpoints,
            flows: 1,
            routes: None,
            nanoseconds: 1.0,
            time_ratio: None,
            pps: None,
            net_cost_ratio,
            programs: Vec::new(),
        };
        let picture = picture(&[
            row("tunl0", 50, Some(1.0)),
            row("verified", 50, Some(0.25)),
            row("plain", 50, None),
            row("vxlan", 500, Some(2.0)),
            Deterministic { routes: Some(100_000), ..row("trusted", 50, Some(0.5)) },
        ]);
        let at = |text: &str| picture.find(text);
        assert!(at(">verified<") < at(">tunl0<"), "{picture}");
        assert!(at(">plain<").is_none() && at(">vxlan<").is_none(), "{picture}");
        assert!(at(">trusted<").is_none(), "{picture}");
        assert!(at("width=\"105.0\"").is_some(), "{picture}");
    }
}
