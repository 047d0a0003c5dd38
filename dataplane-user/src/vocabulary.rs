//! The words that the configuration and the sources share.
//!
//! This module imports nothing of the other two, so that the configuration can be
//! parsed without knowing how a source works.

use std::fmt;

use dataplane_common::Route;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source of routes.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// The configuration file.
    File,
    /// Calico's resources in the Kubernetes API.
    Kubernetes,
    /// Calico's keys in etcd.
    Etcd,
    /// BIRD's routing table, read through its control socket.
    Bird,
    /// The kernel's main routing table, where Felix and Calico's BIRD write.
    Kernel,
}

impl SourceKind {
    /// All sources, in the default order of precedence.
    pub const ALL: [Self; 5] = [Self::File, Self::Kubernetes, Self::Etcd, Self::Bird, Self::Kernel];

    /// Returns the name used in the configuration file and in output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Kubernetes => "kubernetes",
            Self::Etcd => "etcd",
            Self::Bird => "bird",
            Self::Kernel => "kernel",
        }
    }

    /// Returns whether it is a datastore of Calico's: objects of nodes and blocks.
    #[must_use]
    pub const fn is_datastore(self) -> bool {
        matches!(self, Self::Kubernetes | Self::Etcd)
    }

    /// Returns all sources, the most trusted first: those that `precedence` leaves out follow in
    /// their usual order.
    #[must_use]
    pub fn in_order(precedence: &[Self]) -> Vec<Self> {
        let others = Self::ALL.into_iter().filter(|kind| !precedence.contains(kind));
        precedence.iter().copied().chain(others).collect()
    }

    /// Finds the source that a map entry names in `Route::source`; `None` for a
    /// number that no source has.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| u16::from(*kind) == number)
    }
}

impl From<SourceKind> for u16 {
    /// Returns the number that stands for the source in `Route::source`.
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::File => Route::SOURCE_FILE,
            SourceKind::Kubernetes => Route::SOURCE_KUBERNETES,
            SourceKind::Etcd => Route::SOURCE_ETCD,
            SourceKind::Bird => Route::SOURCE_BIRD,
            SourceKind::Kernel => Route::SOURCE_KERNEL,
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How packets travel to a node.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema, Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Encap {
    /// Encapsulated (Calico's `ipipMode: Always`).
    Ipip,
    /// Unencapsulated to nodes in this node's own subnet, encapsulated to all others.
    CrossSubnet,
    /// Unencapsulated: the fabric knows the pods' addresses (BGP without a tunnel,
    /// `ipipMode: Never`).
    Direct,
}
