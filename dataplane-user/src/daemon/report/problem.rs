//! What can be wrong on a node: one list for `status`, its exit code, systemd, and the log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a problem matters.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, JsonSchema, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; no packet suffers.
    Info,
    /// Some packets suffer, or would after the next change.
    Degraded,
    /// This node carries no pod traffic. Only this makes `ready: NO`.
    Down,
}

impl Level {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// Defines [`Code`]: each code's name in JSON and its level, with what it means.
macro_rules! codes {
    ($(#[doc = $doc:literal] $name:ident = $text:literal: $level:ident,)*) => {
        /// What kind of problem it is. The names are an interface: alerts match them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema, Serialize)]
        pub enum Code { $(#[doc = $doc] #[serde(rename = $text)] $name,)* }

        impl Code {
            /// All of them, the gravest first.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How much it matters.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            /// What it means, in a sentence, for the documents.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim(),)* }
            }
        }
    };
}

codes! {
    /// The daemon has not completed a first reconcile.
    Starting = "starting": Down,
    /// The host could not be compared with the desired state at all.
    ReconcileFailed = "reconcile-failed": Down,
    /// The daemon has not reconciled for longer than it ever should.
    DaemonStuck = "daemon-stuck": Down,
    /// There are no pins: tunless is not attached, or another program removed them.
    PinsLost = "pins-lost": Down,
    /// Nothing names this node's underlay address.
    NoNodeAddress = "no-node-address": Down,
    /// The tunnel device is missing.
    TunnelDeviceMissing = "tunnel-device-missing": Down,
    /// A program is missing on the tunnel device or on the underlay.
    ProgramMissing = "program-missing": Down,
    /// The kernel does not forward packets.
    ForwardingOff = "forwarding-off": Down,
    /// Every route's node is unreachable.
    AllUnreachable = "all-routes-unreachable": Down,
    /// The kernel has no route to a node.
    Unreachable = "node-unreachable": Degraded,
    /// Encapsulated packets arrive on a link that has no program of tunless.
    IpipElsewhere = "ipip-elsewhere": Degraded,
    /// The file on disk was refused; the daemon uses an older text.
    ConfigRefused = "config-refused": Degraded,
    /// The daemon does not start.
    StartFailed = "start-failed": Degraded,
    /// A source of routes cannot be reached.
    SourceStale = "source-stale": Degraded,
    /// A source of routes has not reported its routes yet.
    SourceWaiting = "source-waiting": Degraded,
    /// An object of a source, or a value in it, cannot be understood.
    SourceObject = "source-object": Degraded,
    /// The datastore has reported, and has no Node of this node's name.
    OwnNodeMissing = "own-node-missing": Degraded,
    /// This node's address in the datastore is another than the one it uses.
    OwnNodeAddress = "own-node-address": Degraded,
    /// This node's tunnel address in the datastore is another than the one it uses.
    TunnelAddressDiffers = "tunnel-address-differs": Degraded,
    /// The tunnel address lies in no block of this node.
    TunnelAddressForeign = "tunnel-address-foreign": Degraded,
    /// A claim makes no route, or not the one it asks for.
    Claim = "claim": Degraded,
    /// A kernel route of others takes packets for remote pods past tunless.
    ForeignRoute = "foreign-route": Degraded,
    /// The fast path is configured, but withheld.
    FastpathWithheld = "fastpath-withheld": Degraded,
    /// Flows of Services shall be leased, but something on the host stands against it.
    ServicesWithheld = "services-withheld": Degraded,
    /// UDP flows that get no answer shall be leased, but rules count or report their packets.
    UnansweredWithheld = "unanswered-withheld": Degraded,
    /// The nft table that marks flows is missing or was changed.
    MarkTable = "mark-table": Degraded,
    /// A sysctl that leased flows need has another value.
    Sysctl = "sysctl": Degraded,
    /// The kernel does not forward packets from some pods.
    PodForwardingOff = "pod-forwarding-off": Degraded,
    /// The kernel does not forward unencapsulated packets from the underlay.
    UnderlayForwardingOff = "underlay-forwarding-off": Degraded,
    /// Rules of the host name encapsulated packets, which pass by them.
    OuterRules = "outer-rules": Degraded,
    /// A path is narrower than `underlay.min_path_mtu`, or a router reports it as narrower than it is.
    PathMtu = "path-mtu": Degraded,
    /// XDP is not used on a link, because packets do not arrive as it handed them over.
    XdpHandover = "xdp-handover": Degraded,
    /// XDP is missing on a link: TC decapsulates there, at more cost.
    XdpMissing = "xdp-missing": Degraded,
    /// `decap: xdp` asks for XDP on a bond, VLAN or bridge, which has no driver to run it.
    XdpUnsupported = "xdp-unsupported": Degraded,
    /// One CPU handles most encapsulated packets and has no time left.
    HotCpu = "hot-cpu": Degraded,
    /// Received packets are not spread over the CPUs as the file has it.
    ReceiveQueues = "receive-queues": Degraded,
    /// A program is missing on a pod's interface: its packets take the stack path.
    PodProgramMissing = "pod-program-missing": Degraded,
    /// The daemon's report cannot be read.
    ReportUnreadable = "report-unreadable": Degraded,
    /// The maps of the version that serves cannot be read.
    ActiveUnreadable = "active-unreadable": Degraded,
    /// Limits that Calico puts on pods cannot be read: leased flows may exceed them.
    LimitsUnreadable = "limits-unreadable": Degraded,
    /// A change could not be made; it is tried again.
    ApplyFailed = "apply-failed": Degraded,
    /// The mode does not fit what the host has become.
    Mode = "mode": Degraded,
    /// `tunless try` is over and was not kept: packets take tunl0's way.
    TryOver = "try-over": Degraded,
    /// `tunless try` is under way, and ends by itself.
    TryRuns = "try-runs": Info,
    /// A name in `workloads.interfaces` is that of no interface.
    WorkloadInterface = "workload-interface": Info,
    /// No source has any route.
    NoRoutes = "no-routes": Info,
    /// A pod gets no leases, because a limit, a qdisc or a filter has to see each of its packets.
    PodUnleased = "pod-unleased": Info,
    /// A flowtable takes established packets past the rules that grant leases.
    Flowtable = "flowtable": Info,
    /// A route is left to tunl0.
    LeftToTunl0 = "left-to-tunl0": Info,
    /// The host itself has no address towards pods.
    NoTunnelAddress = "no-tunnel-address": Info,
    /// The configured MTU is more than the underlay carries.
    Mtu = "mtu-too-large": Info,
    /// Metrics and health are not served, because their address cannot be had.
    Http = "http": Info,
    /// The daemon is not running. Forwarding does not need it.
    DaemonStopped = "daemon-stopped": Info,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Problem {
    /// Which kind.
    pub code: Code,
    /// How much it matters.
    pub level: Level,
    /// On what: an interface, node, prefix, source, or `file:line`; empty for the whole node.
    #[serde(rename = "where")]
    pub subject: String,
    /// What is wrong and why, in one sentence.
    pub what: String,
    /// What to do about it; `null` where `what` is all there is.
    pub remedy: Option<String>,
    /// Since when, Unix seconds; `null` while it was only just seen.
    pub since: Option<u64>,
}

impl Problem {
    /// A problem that was only just seen.
    pub fn new(code: Code, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            code,
            level: code.level(),
            subject: subject.into(),
            what: what.into(),
            remedy: None,
            since: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// What and remedy, in one line.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.what),
            None => self.what.clone(),
        }
    }

    /// By what it is recognized the next time.
    pub(super) fn key(&self) -> (Code, String) {
        match self.code {
            // There is one file, whatever line of it is wrong.
            Code::ConfigRefused => (self.code, String::new()),
            code => (code, self.subject.clone()),
        }
    }
}

/// How long a *down* problem lasts before the node counts as not ready: one that the daemon
/// repairs at once must not turn a probe red. Seconds.
pub const HOLD: u64 = 10;

/// Whether problems leave the node ready at `now`, Unix seconds.
///
/// A problem without `since` was seen by a command while no daemon kept a history; it counts
/// at once.
#[must_use]
pub fn is_ready(problems: &[Problem], now: u64) -> bool {
    let counts = |problem: &&Problem| {
        problem.level == Level::Down
            && (problem.code == Code::Starting
                || problem.since.is_none_or(|since| now >= since.saturating_add(HOLD)))
    };
    !problems.iter().any(|problem| counts(&problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_go_from_down_to_info() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.is_sorted_by_key(|code| std::cmp::Reverse(code.level())));
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }

    /// `docs/problems.md` is this table; `BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_is_fresh() {
        use std::fmt::Write as _;

        let mut table = include_str!("problems.md").to_owned();
        for code in Code::ALL {
            let (name, level) = (code.as_str(), code.level().as_str());
            writeln!(table, "| `{name}` | {level} | {} |", code.meaning()).unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/problems.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            table,
            "docs/problems.md is stale: run `BLESS=1 cargo test -p dataplane-user`"
        );
    }

    #[test]
    fn only_a_lasting_down_makes_a_node_unready() {
        let at = |code, since| Problem { since, ..Problem::new(code, "", "") };
        let now = 1_000;
        for (code, since, ready) in [
            (Code::SourceStale, Some(1), true),
            (Code::DaemonStopped, None, true),
            (Code::ForwardingOff, Some(now), true),
            (Code::ForwardingOff, Some(now - HOLD + 1), true),
            (Code::ForwardingOff, Some(now - HOLD), false),
            (Code::ForwardingOff, None, false),
            (Code::Starting, Some(now), false),
        ] {
            assert_eq!(is_ready(&[at(code, since)], now), ready, "{code:?} {since:?}");
        }
        assert!(is_ready(&[], now));
    }
}
