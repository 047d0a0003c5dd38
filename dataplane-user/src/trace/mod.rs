//! `tunless trace`: what becomes of packets, live. See `docs/trace.md`.
//!
//! `bpf::tracing` runs the programs; here is what is asked of them ([`filter`]) and how it is shown
//! ([`event`], [`names`], [`capture`]).

pub mod capture;
pub mod event;
pub mod filter;
pub mod names;
