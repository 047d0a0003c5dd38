//! First stage: what this host is like now. No opinion, and nothing is changed.

mod changes;
pub mod cores;
pub mod elsewhere;
pub mod fitness;
pub mod foreign;
pub mod health;
pub mod limits;
mod next_hops;
pub mod outer_rules;
pub mod path_mtu;
mod paths;
mod policy;
pub mod policy_routing;
mod programs;
pub mod receive_queues;
mod rules;

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::Result;

use self::path_mtu::Said;
pub use self::{
    changes::{Interest, Noticed},
    next_hops::NextHops,
};
use crate::{
    desired::Paths,
    kernel::{Host, Kernel},
};

/// Looks at the kernel, and remembers what it saw last.
pub struct Observer {
    kernel: Kernel,
    /// Interfaces, addresses, routes, neighbours, as of the last look.
    host: Host,
    /// How the kernel would send to each node.
    paths: Paths,
    /// The nodes whose paths were asked for.
    asked: BTreeSet<Ipv4Addr>,
    /// The source of what is sent to nodes; `None`: the kernel chooses.
    source: Option<Ipv4Addr>,
    said: Said,
}

impl Observer {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            host: Host::default(),
            paths: Paths::new(),
            asked: BTreeSet::new(),
            source: None,
            said: Said::default(),
        }
    }

    /// The same for a daemon that hears no ICMP messages.
    #[must_use]
    pub fn deaf(self) -> Self {
        Self { said: Said::deaf(), ..self }
    }

    /// The connection to the kernel.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The host as of the last look.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// How the kernel would send to each node.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// If the kernel refuses a dump.
    pub async fn look(&mut self) -> Result<Looked> {
        let host = self.kernel.look().await?;
        let before = std::mem::replace(&mut self.host, host);
        Ok(Looked {
            paths_may_differ: !before.ways(&self.asked).eq(self.host.ways(&self.asked))
                || before.other_tables != self.host.other_tables
                || before.rules != self.host.rules
                || before.local != self.host.local
                || before.addresses != self.host.addresses
                || before.links != self.host.links,
            routes_differ: before.routes != self.host.routes,
        })
    }

    /// Forgets the host, so that the next look asks for all paths anew.
    pub fn forget(&mut self) {
        self.host = Host::default();
    }
}

/// What a look found to be others than before.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    /// The paths to nodes may be others.
    pub paths_may_differ: bool,
    /// Routes of the main table are others.
    pub routes_differ: bool,
}
