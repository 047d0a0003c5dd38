//! Values as Grafana writes them, for the units that our dashboard has. Pure.

/// A value in a unit, by Grafana's name of the unit: `1.20 Kp/s`, `48.0%`.
pub fn shown(unit: &str, value: f64) -> String {
    match unit {
        "pps" => scaled(value, 1000.0, &[" p/s", " Kp/s", " Mp/s", " Gp/s"]),
        "bps" => scaled(value, 1000.0, &[" b/s", " Kb/s", " Mb/s", " Gb/s"]),
        "ops" => scaled(value, 1000.0, &[" ops/s", " Kops/s", " Mops/s"]),
        "bytes" => scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB"]),
        "percentunit" => format!("{}%", short(value * 100.0)),
        "s" if value != 0.0 && value.abs() < 1e-3 => format!("{} \u{b5}s", short(value * 1e6)),
        "s" if value != 0.0 && value.abs() < 1.0 => format!("{} ms", short(value * 1e3)),
        "s" => format!("{} s", short(value)),
        _ => scaled(value, 1000.0, &["", " K", " Mil", " Bil"]),
    }
}

/// The value by the largest unit of which there is one.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut units) = (value, units.iter().copied().peekable());
    let mut unit = units.next().unwrap_or_default();
    while value.abs() >= step && units.peek().is_some() {
        value /= step;
        unit = units.next().unwrap_or_default();
    }
    format!("{}{unit}", short(value))
}

/// Three digits, no zeros behind the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use tunless_lab::dashboard;

    use super::*;
    use crate::workspace;

    #[test]
    fn values_have_their_units() {
        for (unit, value, expected) in [
            ("short", 0.0, "0"),
            ("short", 12_000.0, "12 K"),
            ("pps", 1234.0, "1.23 Kp/s"),
            ("pps", 20.0, "20 p/s"),
            ("bps", 6_400_000.0, "6.4 Mb/s"),
            ("ops", 0.2, "0.2 ops/s"),
            ("bytes", 1500.0, "1.46 KiB"),
            ("percentunit", 0.975, "97.5%"),
            ("s", 12.25, "12.2 s"),
            ("s", 0.015, "15 ms"),
            ("s", 0.000_5, "500 \u{b5}s"),
            ("s", 0.0, "0 s"),
        ] {
            assert_eq!(shown(unit, value), expected, "{unit} {value}");
        }
    }

    /// A new unit on the dashboard has to be drawn as Grafana does.
    #[test]
    fn each_unit_of_the_dashboard_is_known() {
        let file = workspace::root().join("packaging/grafana-dashboard.json");
        for panel in dashboard::read(&file).unwrap() {
            let known = ["short", "pps", "bps", "ops", "bytes", "percentunit", "s"];
            assert!(known.contains(&panel.unit.as_str()), "{}: {}", panel.title, panel.unit);
        }
    }
}
