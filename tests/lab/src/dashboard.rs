//! The Grafana dashboard that tunless ships: its panels, and what they ask Prometheus.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The data source that each panel has: the variable that the reader of the dashboard chooses.
const DATA_SOURCE: &str = "${datasource}";

/// A panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// `stat` or `timeseries`.
    pub kind: String,
    /// Where it is.
    pub place: Place,
    /// Grafana's name of the unit of its values: `short`, `pps`, `percentunit` and so on.
    pub unit: String,
    /// The end of the axis of its values, where that is fixed.
    pub max: Option<f64>,
    /// Whether its series are put one on the other.
    pub is_stacked: bool,
    /// What it asks.
    pub targets: Vec<Target>,
}

/// Where a panel is, in units of the dashboard's grid, which is 24 wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

/// One question of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    expression: String,
    legend: String,
}

impl Target {
    /// The query about all nodes, with this in the place of Grafana's interval for rates, as in `5s`.
    ///
    /// # Errors
    /// If it has another variable.
    pub fn query(&self, interval: &str) -> Result<String> {
        let query =
            self.expression.replace("$__rate_interval", interval).replace("$instance", ".*");
        ensure!(!query.contains('$'), "a variable in {query}");
        Ok(query)
    }

    /// The name of a series with these labels, as Grafana writes it into the legend.
    #[must_use]
    pub fn name(&self, labels: &Value) -> String {
        let (mut name, mut rest) = (String::new(), self.legend.as_str());
        while let Some((before, (label, after))) =
            rest.split_once("{{").and_then(|(before, rest)| Some((before, rest.split_once("}}")?)))
        {
            name += before;
            name += labels[label.trim()].as_str().unwrap_or_default();
            rest = after;
        }
        name + rest
    }
}

/// Reads the panels of a dashboard's file.
///
/// # Errors
/// If the file cannot be read, or a panel is not as ours are: it asks nothing, or another data source than the
/// one that the reader chooses.
pub fn read(file: &Path) -> Result<Vec<Panel>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let dashboard: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    panels.iter().map(panel).collect()
}

fn panel(panel: &Value) -> Result<Panel> {
    let title = panel["title"].as_str().context("a panel without a title")?;
    ensure!(panel["datasource"]["uid"] == DATA_SOURCE, "{title}: another data source");
    let place = |key: &str| -> Result<u32> {
        let number = panel["gridPos"][key].as_u64().and_then(|number| number.try_into().ok());
        number.with_context(|| format!("{title}: no {key}"))
    };
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!targets.is_empty(), "{title} asks nothing");
    let target = |target: &Value| -> Result<Target> {
        let text = |key: &str| Some(target[key].as_str()?.to_owned());
        let expression =
            text("expr").with_context(|| format!("{title}: a target without a query"))?;
        Ok(Target { expression, legend: text("legendFormat").unwrap_or_default() })
    };
    let defaults = &panel["fieldConfig"]["defaults"];
    Ok(Panel {
        title: title.to_owned(),
        kind: panel["type"].as_str().unwrap_or_default().to_owned(),
        place: Place { x: place("x")?, y: place("y")?, width: place("w")?, height: place("h")? },
        unit: defaults["unit"].as_str().unwrap_or_default().to_owned(),
        max: defaults["max"].as_f64(),
        is_stacked: defaults["custom"]["stacking"]["mode"] == "normal",
        targets: targets.iter().map(target).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn as_json() -> Value {
        json!({
            "title": "Map fill", "type": "timeseries", "datasource": {"uid": "${datasource}"},
            "gridPos": {"x": 16, "y": 20, "w": 8, "h": 7},
            "fieldConfig": {"defaults": {
                "unit": "percentunit", "max": 1, "custom": {"stacking": {"mode": "normal"}}
            }},
            "targets": [{
                "expr": "rate(a{instance=~\"$instance\"}[$__rate_interval])",
                "legendFormat": "{{map}} of {{ instance }}, {{none}}",
            }],
        })
    }

    #[test]
    fn a_panel_is_read() {
        let panel = panel(&as_json()).unwrap();
        assert_eq!(panel.place, Place { x: 16, y: 20, width: 8, height: 7 });
        assert_eq!((panel.title.as_str(), panel.kind.as_str()), ("Map fill", "timeseries"));
        assert_eq!(
            (panel.unit.as_str(), panel.max, panel.is_stacked),
            ("percentunit", Some(1.0), true)
        );
        let [target] = panel.targets.as_slice() else { panic!("one target") };
        assert_eq!(target.query("5s").unwrap(), "rate(a{instance=~\".*\"}[5s])");
        let labels = json!({"map": "ROUTES", "instance": "node2"});
        assert_eq!(target.name(&labels), "ROUTES of node2, ");
    }

    #[test]
    fn a_panel_that_is_not_as_ours_is_refused() {
        for (path, value, complaint) in [
            ("/title", json!(null), "without a title"),
            ("/targets", json!([]), "asks nothing"),
            ("/targets/0/expr", json!(1), "without a query"),
            ("/datasource/uid", json!("mine"), "another data source"),
            ("/gridPos/w", json!(-1), "no w"),
        ] {
            let mut json = as_json();
            *json.pointer_mut(path).unwrap() = value;
            let error = panel(&json).unwrap_err().to_string();
            assert!(error.contains(complaint), "{path}: {error}");
        }
        let target = Target { expression: "a{b=\"$c\"}".into(), legend: String::new() };
        assert!(target.query("5s").is_err());
    }
}
