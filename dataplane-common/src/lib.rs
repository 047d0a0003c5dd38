//! What the eBPF programs and user space share.
//!
//! Two kinds of things live here: the layouts of map keys and values, which
//! both sides must read alike, and header logic (checksum, ECN, TTL, the outer
//! header, the source check), which is pure so that host tests can run it.
//! Nothing here touches a packet's memory, a map or the kernel.
//!
//! Directions are **encap** (pod → wire) and **decap** (wire → pod).
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod address;
pub mod checksum;
pub mod direction;
pub mod ecn;
pub mod epochs;
pub mod fit;
pub mod flow;
pub mod interface;
pub mod ipv4;
pub mod layout;
pub mod lease;
pub mod link;
pub mod listing;
pub mod program;
pub mod reason;
pub mod settings;
pub mod shadow;
pub mod source;
pub mod trace;
pub mod unanswered;

pub use address::{Ipv4Be, Mac};
pub use direction::Direction;
pub use epochs::{EpochSlots, Epochs};
pub use flow::Flow;
pub use interface::{IfIndex, Mtu};
pub use layout::{
    Arrival, Counter, Endpoint, EndpointEntry, Handover, Hop, Node, NodeCounter, NodeEntry,
    NodeIndex, Prefix, PrefixRoute, Route,
};
pub use lease::{Lease, Translation};
pub use link::{Duty, LinkState};
pub use program::Program;
pub use reason::{Reason, Verdict};
pub use settings::Settings;
pub use unanswered::{Unanswered, UnansweredSet};
