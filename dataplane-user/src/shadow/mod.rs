//! `mode: shadow`: what tunless would have done with the packets that tunl0 carries.
//!
//! ```text
//! programs ─ bpf::shadow      findings, reasons, last packets, sampled flows
//! conntrack ─ fate            would this flow have had a lease?
//! watch ─ report              added up in the run directory, over restarts
//! verdict                     the report in words, for `tunless shadow report`
//! ```

mod fate;
pub mod report;
mod verdict;
mod watch;

pub use self::{
    report::Report,
    verdict::{Opinion, describe, opinion},
    watch::{Exclusions, Watch},
};
