//! What sources claim, and what the host is like, on its way into the table of routes.

use super::Decider;
use crate::{
    clock,
    desired::Facts,
    kernel::Host,
    sources::{Me, Report, SourceKind, kernel::Reader},
};

impl Decider {
    /// Starts the sources of the active file. `name`: this node's, where the file is silent.
    pub fn start_sources(&mut self, name: String) {
        let name = self.file.config.node.name.clone().unwrap_or(name);
        let address = self.memory.node.map(|node| node.address);
        self.sources.configure(&self.file.config, &Me { name, address });
    }

    /// Takes in what a source reports, for the next decision.
    pub fn take(&mut self, kind: SourceKind, report: Report) {
        self.sources.take(kind, report);
    }

    /// Tells the table of routes what the host is like, the kernel's routes among it.
    pub fn consult(&mut self, host: &Host, facts: &Facts, routes_differ: bool) {
        self.sources.table_mut().set_surroundings(facts.surroundings(host));
        let is_due = routes_differ || self.sources.silent().any(|kind| kind == SourceKind::Kernel);
        if let Some(config) = self.file.config.sources.kernel.as_ref().filter(|_| is_due) {
            let claims = Reader::new(config, host, &facts.underlay, facts.node).claims(host);
            let report = Report::Snapshot { claims, problems: Vec::new() };
            self.sources.take(SourceKind::Kernel, report);
        }
        self.sources.table_mut().settle(clock::seconds());
    }
}
