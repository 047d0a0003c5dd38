//! Figures by metric, and how they are written.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    registry::Registry,
};

use super::metric::{Kind, Metric, PREFIX};

/// One figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// Seconds.
    Seconds(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Count(u64::from(is_so))
    }
}

impl From<f64> for Value {
    fn from(seconds: f64) -> Self {
        Self::Seconds(seconds)
    }
}

/// The value of a label.
pub type Label = Cow<'static, str>;

/// All figures of one scrape.
#[derive(Clone, Default, Debug)]
pub struct Samples(BTreeMap<Metric, Vec<(Vec<Label>, Value)>>);

/// How figures are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Text,
}

impl Format {
    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format for a client that sent this `Accept`: OpenMetrics if it is named and not refused.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let is_open_metrics = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let is_refused = parts.any(|part| {
                part.strip_prefix("q=").is_some_and(|q| q.parse().is_ok_and(|q: f32| q <= 0.0))
            });
            kind.eq_ignore_ascii_case("application/openmetrics-text") && !is_refused
        });
        if is_open_metrics { Self::OpenMetrics } else { Self::Text }
    }
}

impl Samples {
    /// Adds a figure; `labels` are the values of [`Metric::labels`].
    pub fn add<const N: usize>(
        &mut self,
        metric: Metric,
        labels: [Label; N],
        value: impl Into<Value>,
    ) {
        debug_assert_eq!(metric.labels().len(), N, "{}", metric.base());
        self.0.entry(metric).or_default().push((labels.into(), value.into()));
    }

    /// Adds all figures of others.
    pub fn merge(&mut self, others: Self) {
        for (metric, figures) in others.0 {
            self.0.entry(metric).or_default().extend(figures);
        }
    }

    /// The figures of a metric, with the values of its labels.
    pub fn of(&self, metric: Metric) -> impl Iterator<Item = (&[Label], Value)> {
        let figures = self.0.get(&metric).map(Vec::as_slice).unwrap_or_default();
        figures.iter().map(|(labels, value)| (labels.as_slice(), *value))
    }

    /// Writes them.
    ///
    /// # Errors
    /// Never, as writing to memory is not refused.
    pub fn write(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut written, &registry)?,
            Format::Text => prometheus_text::encode(&mut written, &registry)?,
        }
        Ok(written)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (metric, figures) in &self.0 {
            let (unit, kind) = (metric.unit(), metric.kind());
            let help = metric.meaning();
            let mut encoder =
                encoder.encode_descriptor(metric.base(), &help, unit.as_ref(), kind.wire())?;
            for (values, value) in figures {
                let names = metric.labels().iter().copied();
                let labels: Vec<(&str, &str)> =
                    names.zip(values.iter().map(|value| &**value)).collect();
                figure(encoder.encode_family(&labels)?, kind, *value)?;
            }
        }
        Ok(())
    }
}

fn figure(mut encoder: MetricEncoder<'_>, kind: Kind, value: Value) -> fmt::Result {
    let no_exemplar = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>>;
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter(&count, no_exemplar),
        (Kind::Counter, Value::Seconds(seconds)) => encoder.encode_counter(&seconds, no_exemplar),
        (Kind::Gauge, Value::Count(count)) => {
            encoder.encode_gauge(&i64::try_from(count).unwrap_or(i64::MAX))
        }
        (Kind::Gauge, Value::Seconds(seconds)) => encoder.encode_gauge(&seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Samples {
        let mut samples = Samples::default();
        samples.add(Metric::Endpoints, [], 3_usize);
        samples.add(Metric::MapsRead, [], 0.25);
        samples.add(Metric::LeaseRenewals, ["encap".into()], 7_u64);
        samples.add(Metric::SourceSynced, ["fi\"l\\e\n".into()], true);
        samples
    }

    #[test]
    fn open_metrics_names_units_and_ends() {
        let text = samples().write(Format::OpenMetrics).unwrap();
        for line in [
            "# TYPE tunless_endpoints gauge",
            "tunless_endpoints 3",
            "# UNIT tunless_maps_read_duration_seconds seconds",
            "tunless_maps_read_duration_seconds 0.25",
            "# TYPE tunless_lease_renewals counter",
            "tunless_lease_renewals_total{direction=\"encap\"} 7",
            "tunless_source_synced{source=\"fi\\\"l\\\\e\\n\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn the_older_text_format_names_counters_as_they_are_queried() {
        let text = samples().write(Format::Text).unwrap();
        for line in [
            "# TYPE tunless_lease_renewals_total counter",
            "tunless_lease_renewals_total{direction=\"encap\"} 7",
            "# TYPE tunless_maps_read_duration_seconds gauge",
        ] {
            assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        // What Prometheus 2.42 and 3 send, then curl, then a browser.
        for (accept, format) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Text),
            ("Application/OpenMetrics-Text; q=0.3", Format::OpenMetrics),
            ("application/openmetrics-text;q=0, text/plain", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml;q=0.9", Format::Text),
            ("", Format::Text),
            (";;,,;q", Format::Text),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
