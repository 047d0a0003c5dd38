//! The dashboard: a minute of a cluster, as a real Prometheus saw it, drawn from the panels' own queries.
//!
//! Debian has no Grafana. What is drawn here is the dashboard's JSON (place, title, kind, unit and legend of each
//! panel) with the series that Prometheus answers, so a panel that has no data, or the wrong unit, shows.

mod chart;
mod page;
mod unit;

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tunless_lab::{
    Prometheus,
    dashboard::{self, Panel, Target},
};

use self::page::Series;
use super::cluster::Cluster;
use crate::{interrupt, workspace};

/// How long the cluster is looked at.
const LENGTH: Duration = Duration::from_secs(60);
/// Seconds between two points.
const STEP: u32 = 2;
/// What rates are taken over: a few scrapes, which come each second.
const RATES_OVER: &str = "5s";
/// Scrapes until each query has an answer.
const BEFORE: Duration = Duration::from_secs(8);

/// Draws the dashboard.
///
/// # Errors
/// If Prometheus is not there, does not understand a query, or has nothing for one.
pub fn make(cluster: &mut Cluster) -> Result<String> {
    let rules = packaging("tunless.rules.yaml");
    let prometheus = Prometheus::start(&cluster.lab.node2, &cluster.metrics(), &rules)?;
    println!("dashboard: {} s of figures …", (BEFORE + LENGTH).as_secs());
    interrupt::sleep(BEFORE)?;
    let (start, began) = (now()?, Instant::now());
    let until =
        |share: f64| interrupt::sleep(LENGTH.mul_f64(share).saturating_sub(began.elapsed()));
    // What an operator would look at: spoofed packets for a while, and a file that is refused.
    until(0.2)?;
    let spoofer = cluster.spoof()?;
    until(0.45)?;
    spoofer.finish()?;
    until(0.6)?;
    cluster.spoil_config(true)?;
    until(0.8)?;
    cluster.spoil_config(false)?;
    until(1.0)?;
    let span = (start, now()?);
    let panels = dashboard::read(&packaging("grafana-dashboard.json"))?;
    let filled: Vec<(Panel, Vec<Series>)> = panels
        .into_iter()
        .map(|panel| {
            let series = answers(&prometheus, &panel, span);
            let series = series.with_context(|| format!("panel `{}`", panel.title))?;
            Ok((panel, series))
        })
        .collect::<Result<_>>()?;
    Ok(page::draw("tunless", &filled, span.1 - span.0))
}

fn packaging(file: &str) -> PathBuf {
    workspace::root().join("packaging").join(file)
}

/// Unix time in seconds.
fn now() -> Result<f64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs_f64())
}

/// All series of a panel.
fn answers(prometheus: &Prometheus, panel: &Panel, span: (f64, f64)) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for target in &panel.targets {
        let query = target.query(RATES_OVER)?;
        let found = prometheus.query_range(&query, span, STEP)?;
        ensure!(!found.is_empty(), "no data for {query}");
        all.extend(found.iter().map(|found| series(target, found, span.0)));
    }
    Ok(all)
}

/// A series of Prometheus's answer, with times from `start`. What is no number is left out.
fn series(target: &Target, found: &Value, start: f64) -> Series {
    let values = found["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    let point = |value: &Value| {
        let number: f64 = value[1].as_str()?.parse().ok()?;
        number.is_finite().then_some((value[0].as_f64()? - start, number))
    };
    Series {
        name: target.name(&found["metric"]),
        points: values.iter().filter_map(point).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_becomes_a_series_with_its_legend() {
        let panels = dashboard::read(&packaging("grafana-dashboard.json")).unwrap();
        let drops = panels.iter().find(|panel| panel.title == "Drops by reason").unwrap();
        let found = json!({
            "metric": {"reason": "decap_own_source"},
            "values": [[100.0, "1.5"], [102, "NaN"], [104.5, "2"]],
        });
        let series = series(&drops.targets[0], &found, 100.0);
        assert_eq!(series.name, "decap_own_source");
        assert_eq!(series.points, [(0.0, 1.5), (4.5, 2.0)]);
    }
}
