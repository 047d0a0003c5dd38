//! The table of metrics: name, type, labels and meaning of each. `docs/metrics.md` is made from it.

use prometheus_client::{metrics::MetricType, registry::Unit};

/// What all names begin with.
pub const PREFIX: &str = "tunless";

/// How a metric's figures move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Upwards; from 0 again when the maps, or the daemon, are new ones.
    Counter,
    /// Up and down.
    Gauge,
}

impl Kind {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }

    /// The word for it in both formats.
    #[must_use]
    pub const fn wire(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }
}

/// Where a metric's figures come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The daemon's report: what `tunless status` prints.
    Report,
    /// The maps, at the time of the scrape.
    Maps,
    /// The maps, and only with `http: {nodes: true}`.
    Nodes,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $metric:ident = $name:literal $unit:ident $kind:ident $origin:ident [$($label:literal)*],)*) => {
        /// A metric. The names are an interface: dashboards and alerts match them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Metric { $($(#[doc = $doc])+ $metric,)* }

        impl Metric {
            /// All of them, in the order in which they are printed.
            pub const ALL: &'static [Self] = &[$(Self::$metric,)*];

            /// The name without [`PREFIX`], unit and `_total`.
            #[must_use]
            pub const fn base(self) -> &'static str {
                match self { $(Self::$metric => $name,)* }
            }

            /// The unit, which the name ends with.
            #[must_use]
            pub const fn unit(self) -> Option<Unit> {
                match self { $(Self::$metric => metrics!(@unit $unit),)* }
            }

            /// How its figures move.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$metric => Kind::$kind,)* }
            }

            /// Where its figures come from.
            #[must_use]
            pub const fn origin(self) -> Origin {
                match self { $(Self::$metric => Origin::$origin,)* }
            }

            /// The names of its labels.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$metric => &[$($label),*],)* }
            }

            /// What it means, in a sentence or two.
            #[must_use]
            pub fn meaning(self) -> String {
                let lines: &[&str] = match self { $(Self::$metric => &[$($doc),+],)* };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
    (@unit none) => { None };
    (@unit seconds) => { Some(Unit::Seconds) };
    (@unit bytes) => { Some(Unit::Bytes) };
}

metrics! {
    // The daemon.
    /// 1; which version runs, and the layout of its maps.
    Build = "build_info" none Gauge Report ["version" "abi"],
    /// When this daemon started, Unix time.
    Start = "start_time" seconds Gauge Report [],
    /// 1; the SHA-256 of the active configuration file, as `sha256sum` prints it.
    Config = "config_info" none Gauge Report ["sha256"],
    /// When the active configuration was accepted, Unix time.
    ConfigAccepted = "config_accepted_timestamp" seconds Gauge Report [],
    /// 1 if the file on disk is the active one, 0 if it was refused.
    ConfigReload = "config_last_reload_successful" none Gauge Report [],
    /// 1; what the daemon decided for this node.
    Settings = "settings_info" none Gauge Report ["mode" "fastpath" "spoof"],
    /// 1 if `/readyz` answers that the node is ready, else 0.
    Ready = "ready" none Gauge Report [],
    /// How many problems of this code the node has: docs/problems.md explains each.
    Problems = "problems" none Gauge Report ["code" "level"],
    /// Since when the node has a problem of this code, Unix time. Only for codes it has.
    ProblemSince = "problem_since_timestamp" seconds Gauge Report ["code"],
    /// How often the daemon compared what is with what should be: `whole` is everything,
    /// `changes` what sources reported.
    Reconciles = "reconciles" none Counter Report ["extent"],
    /// How often a comparison of everything ended with changes that could not be made.
    ReconcileFailures = "reconcile_failures" none Counter Report [],
    /// When everything was compared last, Unix time: at least every 10 s.
    ReconcileLast = "reconcile_last_timestamp" seconds Gauge Report [],
    /// How long the last comparison of everything took.
    ReconcileDuration = "reconcile_duration" seconds Gauge Report [],
    /// How many programs should be attached.
    Programs = "programs" none Gauge Report ["program"],
    /// 1 if the source of routes has reported all it knows and is followed, else 0.
    SourceSynced = "source_synced" none Gauge Report ["source"],
    /// How many routes the source claims.
    SourceClaims = "source_claims" none Gauge Report ["source"],
    /// How many objects or values of the source cannot be understood.
    SourceProblems = "source_problems" none Gauge Report ["source"],
    /// When the source last reported anything, Unix time. A source without changes is silent; the file
    /// and the kernel's table are read by the daemon itself.
    SourceReport = "source_last_report_timestamp" seconds Gauge Report ["source"],
    /// Since when the source cannot be reached, Unix time. Only while it cannot.
    SourceStale = "source_stale_since_timestamp" seconds Gauge Report ["source"],
    // The maps.
    /// 1 if the maps could be read for this scrape; if 0, everything below is missing.
    MapsReadable = "maps_readable" none Gauge Report [],
    /// How long it took to read the maps.
    MapsRead = "maps_read_duration" seconds Gauge Maps [],
    /// Packets by reason, as `tunless counters list` has them: a packet is counted once by every program
    /// that it crosses. docs/counters.md explains each reason.
    Packets = "packets" none Counter Maps ["reason" "program" "direction" "verdict"],
    /// Bytes of these packets.
    Bytes = "bytes" none Counter Maps ["reason" "program" "direction" "verdict"],
    /// Packets that `decap_tc` decapsulated, by CPU.
    Decapsulated = "decapsulated_packets" none Counter Maps ["cpu"],
    /// How many entries a map has. `LEASES` keeps what has expired until it needs the room: use
    /// `tunless_leases` for that one.
    MapEntries = "map_entries" none Gauge Maps ["map"],
    /// How many entries a map can have.
    MapCapacity = "map_max_entries" none Gauge Maps ["map"],
    /// How many flows have a good lease, each direction for itself.
    Leases = "leases" none Gauge Maps ["direction"],
    /// Leases granted, those that renew an expired one included. `service`: with the translation of a Service; `unanswered`: of UDP that gets no answer.
    LeaseGrants = "lease_grants" none Counter Maps ["direction" "kind"],
    /// Packets that found their lease expired: netfilter decides anew, and may renew it.
    LeaseRenewals = "lease_renewals" none Counter Maps ["direction"],
    /// Packets that ended leases or found them ended. `connection_control`: TCP SYN, FIN or RST;
    /// `outdated`: a route, node or pod has changed.
    LeaseRevocations = "lease_revocations" none Counter Maps ["direction" "cause"],
    /// Routes to other nodes' pods, by where they were learnt and how packets travel.
    Routes = "routes" none Gauge Maps ["source" "encap"],
    /// Other nodes. `protected`: IPsec encrypts what goes there, and tunless stays out.
    Nodes = "nodes" none Gauge Maps ["state"],
    /// Local pods.
    Endpoints = "endpoints" none Gauge Maps [],
    // Each node.
    /// Packets to (`encap`) and from (`decap`) a node.
    NodePackets = "node_packets" none Counter Nodes ["node" "direction"],
    /// Bytes to (`encap`) and from (`decap`) a node.
    NodeBytes = "node" bytes Counter Nodes ["node" "direction"],
    /// Packets from a node with an inner source that is not its own.
    NodeForged = "node_forged_packets" none Counter Nodes ["node"],
    /// When a packet last came from the node, Unix time. Missing until one has.
    NodeSeen = "node_last_seen_timestamp" seconds Gauge Nodes ["node"],
    /// The largest encapsulated packet that the path to the node takes. Missing where no path is known.
    NodeMtu = "node_path_mtu" bytes Gauge Nodes ["node"],
}

impl Metric {
    /// The name as it is queried: with prefix, unit and `_total`.
    #[must_use]
    pub fn name(self) -> String {
        let unit = self.unit().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let total = if self.kind() == Kind::Counter { "_total" } else { "" };
        format!("{PREFIX}_{}{unit}{total}", self.base())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write as _};

    use super::*;

    #[test]
    fn names_are_unique_and_end_as_prometheus_asks() {
        let names: BTreeSet<String> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let name = metric.name();
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
            assert!(name.chars().all(is_plain), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
            assert!(metric.meaning().ends_with('.'), "{name}");
            assert!(!metric.meaning().contains('\n'), "{name}");
        }
    }

    /// `docs/metrics.md` is this table; `BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_is_fresh() {
        let mut table = include_str!("metrics.md").to_owned();
        for metric in Metric::ALL {
            let labels: Vec<String> =
                metric.labels().iter().map(|label| format!("`{label}`")).collect();
            let opt_in = if metric.origin() == Origin::Nodes { "`nodes: true`: " } else { "" };
            let (name, kind) = (metric.name(), metric.kind().as_str());
            let (labels, meaning) = (labels.join(" "), metric.meaning());
            writeln!(table, "| `{name}` | {kind} | {labels} | {opt_in}{meaning} |").unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            table,
            "docs/metrics.md is stale: run `BLESS=1 cargo test -p dataplane-user`"
        );
    }
}
