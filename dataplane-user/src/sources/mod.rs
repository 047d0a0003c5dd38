//! Where routes are learnt: the file, Calico's datastore, BIRD, the kernel.
//!
//! Each source is a task of its own that [reports](Reporter) what it claims and
//! never decides anything. The [`RouteTable`] weighs all claims and chooses; the
//! daemon puts the choice in place. So a source that is down, slow or wrong can
//! make nothing vanish: only its own word, that something is gone, does.

mod backoff;
pub mod bird;
pub mod calico;
pub mod error;
pub mod etcd;
mod feed;
pub mod hub;
pub mod kernel;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod reported;
pub mod status;
pub mod table;

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use tokio::{sync::mpsc::UnboundedSender, task::JoinHandle};

use self::error::Outage;
use crate::config::SourcesConfig;
pub use crate::vocabulary::{Encap, SourceKind};

/// What a source says of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Claim {
    /// The underlay address of the node that carries it; this node's own if it
    /// is ours, which makes no route but proves that it is nobody else's.
    pub node: Ipv4Addr,
    /// How to get there; `None`: the source does not know, the file's pools say.
    pub encap: Option<Encap>,
}

/// Which object of a source a claim comes from, for people: an etcd key, a
/// resource's name, a line. With the prefix it identifies the claim.
pub type Origin = Arc<str>;

/// A claim made, changed, or taken back (`claim: None`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The block, or a borrowed address as a /32.
    pub cidr: Ipv4Net,
    /// Where it stands.
    pub origin: Origin,
    /// What it says now.
    pub claim: Option<Claim>,
}

/// What a source has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Everything it claims: what it claimed before and is not here is gone. Only
    /// after a complete list; makes the source *synced* and ends `Down`.
    Snapshot {
        /// All claims.
        claims: Vec<Change>,
        /// What could not be understood: key or resource → what is wrong with it
        /// and that it was skipped. Replaces earlier problems.
        problems: Vec<(Origin, String)>,
    },
    /// Changes since the last report, in order; together they become one step.
    Changes(Vec<Change>),
    /// All objects that cannot be understood, each with the reason. Replaces earlier
    /// problems; for sources that read everything each time.
    Problems(Vec<(Origin, String)>),
    /// An object cannot be understood (`Some`: why, in one line), or can again.
    Problem(Origin, Option<String>),
    /// The source cannot be reached, or refuses. What it claimed stays.
    Down(Outage),
    /// It can be reached again and nothing was missed. (After [`Report::Snapshot`]
    /// this goes without saying.)
    Up,
}

/// Who we are, to the sources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Me {
    /// This node's name in the cluster.
    pub name: String,
    /// Its underlay address, as far as it is known.
    pub address: Option<Ipv4Addr>,
}

/// Starts a source; `None` for those the daemon reads itself.
fn spawn(
    kind: SourceKind,
    config: &SourcesConfig,
    me: Me,
    reporter: Reporter,
) -> Option<JoinHandle<()>> {
    match kind {
        SourceKind::Bird => Some(tokio::spawn(bird::run(config.bird.clone()?, me, reporter))),
        SourceKind::Etcd => Some(tokio::spawn(etcd::run(config.etcd.clone()?, me, reporter))),
        // Read by the daemon itself.
        SourceKind::File | SourceKind::Kernel => None,
        #[cfg(feature = "kubernetes")]
        SourceKind::Kubernetes => {
            let config = config.kubernetes.clone()?;
            Some(tokio::spawn(kubernetes::run(config, me, reporter)))
        }
        #[cfg(not(feature = "kubernetes"))]
        SourceKind::Kubernetes => {
            let error = error::Endpoint::new("Kubernetes")
                .error("this tunless was built without its feature `kubernetes`");
            reporter.send(Report::Down(error.into()));
            None
        }
    }
}

/// A source's way to the daemon.
#[derive(Clone, Debug)]
pub struct Reporter {
    kind: SourceKind,
    sender: UnboundedSender<(SourceKind, Report)>,
}

impl Reporter {
    /// For one source.
    #[must_use]
    pub fn new(kind: SourceKind, sender: UnboundedSender<(SourceKind, Report)>) -> Self {
        Self { kind, sender }
    }

    /// Tells the daemon; nobody listens any more once it stops.
    pub fn send(&self, report: Report) {
        let _ = self.sender.send((self.kind, report));
    }
}
