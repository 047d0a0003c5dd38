//! Beside tunl0, through all that happens to it, to tunless and to Felix.
//!
//! node2 has Felix's rules, tunl0 and tunless; node1 has tunl0 alone. Strict
//! `rp_filter` everywhere, as the lab has it.

mod events;
mod felix;
mod kernel_source;
mod scene;
mod streams;
mod vxlan;

pub use self::streams::Streams;
use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "accelerate",
    about: "`mode: accelerate`, whatever happens to it, to tunl0 and to Felix",
    parts: &["event"],
    cases,
};

fn cases(_: Kernel) -> Vec<Case> {
    let case = |(name, run)| Case { name, loads_tunless: true, run };
    events::ALL.iter().copied().map(case).collect()
}
