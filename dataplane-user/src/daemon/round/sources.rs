//! What sources say, and what the host is like, on its way into the table of routes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use super::{Reconciler, now};
use crate::{
    bpf::{Maps, Pins},
    desired::Facts,
    kernel::Host,
    sources::{Me, Report, SourceKind, kernel::Reader, table::ChosenRoute},
};

impl Reconciler {
    /// Starts the sources of the file in force. `node`: our address.
    pub fn start_sources(&mut self, node: Ipv4Addr) {
        let name = self.file.config.node.name.clone().unwrap_or_else(host_name);
        self.sources.configure(&self.file.config, &Me { name, address: Some(node) });
    }

    /// Takes in what a source says, for the next round or step.
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        self.sources.take(kind, report);
    }

    /// Whether programs of another version serve with routes that we cannot read: they
    /// must go on until every source has reported its own. Another version's maps are
    /// removed after the first complete round, so their directory is the sign; ours says
    /// nothing, because the daemon makes it when it starts.
    pub fn waits_for_sources(&self) -> bool {
        let silent = self.sources.silent().any(|kind| kind != SourceKind::Kernel);
        silent && self.pins.other_versions().is_ok_and(|versions| !versions.is_empty())
    }

    /// The sources that are waited for, for `systemctl status`.
    pub fn awaited(&self) -> String {
        let names: Vec<_> = self.sources.silent().map(SourceKind::as_str).collect();
        format!(
            "the programs of another version serve; waiting for routes from {}",
            names.join(", ")
        )
    }

    /// Tells the table of routes what the host is like, the kernel's routes among it.
    pub fn consult_sources(&mut self, host: &Host, facts: &Facts) {
        self.sources.table_mut().set_surroundings(facts.surroundings(host));
        let routes_differ = host.routes != self.host.routes || !self.sources.have_spoken();
        if let Some(config) = self.file.config.sources.kernel.as_ref().filter(|_| routes_differ) {
            let claims = Reader::new(config, host, &facts.underlay, facts.node).claims(host);
            let report = Report::Snapshot { claims, problems: Vec::new() };
            self.sources.take(SourceKind::Kernel, report);
        }
        self.sources.table_mut().settle(now());
    }
}

/// The routes an earlier run left in force; none if there was none.
pub(super) fn in_force(pins: &Pins) -> BTreeMap<Ipv4Net, ChosenRoute> {
    if !pins.exist() {
        return BTreeMap::new();
    }
    let routes = Maps::open(pins).and_then(|maps| maps.all_routes()).unwrap_or_default();
    let remote = routes.into_iter().filter(|(_, route)| route.is_destination());
    let chosen = remote.filter_map(|(cidr, route)| {
        let source = SourceKind::from_number(route.source)?;
        let (node, is_direct) = (route.node.into(), route.is_direct());
        Some((cidr, ChosenRoute { node, is_direct, source, since: route.since }))
    });
    chosen.collect()
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}
