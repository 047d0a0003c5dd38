//! Does it work at all, on this kernel, with tunl0 at the other end?

mod attempt;
pub mod boot_order;
pub mod interop;
mod machine;
mod services;
mod shadow;
mod trace;
mod watcher;

pub use self::interop::{config, pings};
use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "smoke",
    about: "tunless beside the kernel's tunl0: pings, TCP and UDP, both ways",
    parts: &[],
    cases,
};

fn cases(_: Kernel) -> Vec<Case> {
    let mut cases = machine::CASES.to_vec();
    cases.extend_from_slice(interop::CASES);
    cases.extend_from_slice(services::CASES);
    cases.push(watcher::CASE);
    cases.push(trace::CASE);
    cases.push(attempt::CASE);
    cases.push(shadow::CASE);
    cases.push(boot_order::CASE);
    cases
}
