//! Where routes are learnt: the file, Calico's datastore, BIRD, the kernel.
//!
//! Each source is a task of its own that [reports](Reporter) what it claims and
//! never decides anything. The [`table`] weighs all claims and chooses; the daemon
//! puts the choice in place. So a source that is down, slow or wrong removes no
//! route: a route disappears only when the source explicitly withdraws it.
//!
//! | module | part |
//! |---|---|
//! | [`hub`] | starts and stops sources |
//! | [`claims`] | takes in their reports; runs nothing |
//! | [`reported`] | the only memory of what a source reported |
//! | [`table`] | all claims, and the route chosen for each prefix |
//! | `feed`, `backoff` | the loop that etcd, kubernetes and bird share |
//! | [`reads`] | how closely a datastore is followed |
//! | [`names`] | what nodes are called |
//! | [`servers`] | which addresses a source's servers have |
//! | [`error`] | what goes wrong in a source |
//! | [`calico`] | Calico's objects, whatever datastore they come from |

mod backoff;
pub mod bird;
pub mod calico;
pub mod claims;
pub mod error;
pub mod etcd;
mod feed;
pub mod hub;
pub mod kernel;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod names;
pub mod reads;
pub mod reported;
pub mod servers;
pub mod status;
pub mod table;

use std::{net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc::UnboundedSender, task::JoinHandle};

use self::{error::Outage, names::NodeNames, reads::Reads, servers::ServerAddresses};
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

/// What a source reports. It may report the same thing again: only what is new has an
/// effect, and is logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Everything it claims: what it claimed before and is not here is gone. Only
    /// after a complete list; makes the source *synced* and ends `Down`.
    Snapshot {
        /// All claims.
        claims: Vec<Change>,
        /// All objects with a problem: key or resource → what is wrong with it, and
        /// what becomes of it. Replaces earlier problems.
        problems: Vec<(Origin, String)>,
    },
    /// What a datastore records about this node. It comes before the first `Snapshot`.
    OwnNode(OwnNode),
    /// What it calls the nodes, all of them.
    Names(NodeNames),
    /// How closely a datastore is followed. It comes before the first `Snapshot`.
    Reads(Reads),
    /// All hosts of the source's servers, with their addresses.
    Servers(ServerAddresses),
    /// All hosts that serve behind those: a Service or a load balancer may stand before them.
    Backends(ServerAddresses),
    /// Changes since the last report, in order; together they become one step.
    Changes(Vec<Change>),
    /// All objects with a problem, as in a snapshot. For sources that read everything
    /// each time.
    Problems(Vec<(Origin, String)>),
    /// An object has a problem (`Some`: which, in one line), or none any more.
    Problem(Origin, Option<String>),
    /// The source cannot be reached, or refuses. What it claimed stays.
    Down(Outage),
    /// The source can be reached, and no change was missed. ([`Report::Snapshot`]
    /// implies it.)
    Up,
}

/// This node in a datastore.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct OwnNode {
    /// The object as problems name it, whether it exists or not: `Node/node2`.
    pub object: String,
    /// What it records; `None`: there is no such object.
    pub record: Option<NodeRecord>,
}

/// What a Node object records about the node, as far as this node uses it for itself.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize, Serialize)]
pub struct NodeRecord {
    /// The underlay address.
    pub address: Option<Ipv4Addr>,
    /// The address of Calico's IPIP device, the host's source towards pods.
    pub tunnel_address: Option<Ipv4Addr>,
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
