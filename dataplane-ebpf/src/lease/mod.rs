//! Leases: netfilter decides, we remember for a few seconds.
//!
//! [`lookup`] is the fast path's question at a pod's interface and at the NIC.
//! On a "no" the packet crosses the stack with a [flow tag](dataplane_common::Flow::tag)
//! of its addresses and ports in `skb->tc_index` ([`arrival`]). Behind netfilter, [`settle`]
//! asks for our mark and that tag, and grants, or [revokes](revoke).
//!
//! Of a flow that conntrack translates for a Service, the lease is given under the addresses and
//! ports with which its packets come, and [`service`] rewrites them as conntrack would have.

pub mod arrival;
mod epoch;
mod lookup;
mod revoke;
pub mod service;
mod settle;
mod unanswered;

pub use self::{
    epoch::Epoch,
    lookup::{Hit, Miss, Slot, lookup, lookup_apart},
    settle::{Approval, Request, Settled, settle},
};
