//! Netfilter, the judge of which flows may be leased.
//!
//! [`MarkRules`] is our own nft table: it reads conntrack's opinion of a packet
//! into one bit of `skb->mark`, which the programs read. [`conntrack`] are the
//! sysctls without which conntrack would stumble over flows it sees only now
//! and then.

pub mod conntrack;
mod lease_fitness;
pub mod legacy;
pub mod limits;
pub mod outer;
pub(crate) mod rules;
mod service_rules;
mod services;
pub mod unanswered;

pub use self::{
    lease_fitness::LeaseFitness,
    rules::{Listing, MarkRules, TABLE, check, list, remove},
    service_rules::{Chains, ServiceRules},
    services::{Obstacle, ServiceFitness},
    unanswered::UnansweredFitness,
};
