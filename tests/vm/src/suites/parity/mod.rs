//! The same packets through tunl0 and through tunless, compared byte by byte.
//!
//! ```text
//! encap, decap   the packets: hand-made, each with a number in its inner IP ID
//! node           one node's pod and wire, with tunl0 alone or with tunless
//! observe        what came out, at the wire and in the pod, by that number
//! difference     what may differ: the table in ARCHITECTURE.md
//! compare        everything else must be equal
//! ```
//!
//! Every node of Calico has conntrack, whose defragmentation changes what is
//! seen of fragments, and `verified` needs it. So the kernel alone is looked at
//! twice, without conntrack and with it; each run is compared to its like.

mod bytes;
mod compare;
mod decap;
pub mod difference;
mod encap;
mod node;
mod observe;
mod probe;
mod run;

use anyhow::Result;

use super::{Case, Guest, Suite};
use crate::Kernel;
use node::{Conntrack, Mode, Setup};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "parity",
    about: "the same packets through tunl0 and through tunless: no difference but those listed",
    parts: &[],
    cases,
};

const CASES: &[Case] = &[
    Case { name: "tunl0_is_like_itself", loads_tunless: false, run: itself },
    Case { name: "replace_off", loads_tunless: true, run: replace_off },
    Case { name: "replace_trusted", loads_tunless: true, run: replace_trusted },
    Case { name: "replace_verified", loads_tunless: true, run: replace_verified },
    Case { name: "accelerate_off", loads_tunless: true, run: accelerate_off },
    Case { name: "accelerate_trusted", loads_tunless: true, run: accelerate_trusted },
    Case { name: "shadow", loads_tunless: true, run: shadow },
    Case { name: "accelerate_verified", loads_tunless: true, run: accelerate_verified },
];

fn cases(_: Kernel) -> Vec<Case> {
    CASES.to_vec()
}

/// What the comparison makes of no difference at all.
fn itself(_: &Guest) -> Result<()> {
    run::kernel_with_itself()
}

fn replace_off(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Replace, "off", Conntrack::Off))
}

fn replace_trusted(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Replace, "trusted", Conntrack::Off))
}

fn replace_verified(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Replace, "verified", Conntrack::On))
}

fn shadow(_: &Guest) -> Result<()> {
    run::shadow()
}

fn accelerate_off(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Accelerate, "off", Conntrack::Off))
}

fn accelerate_trusted(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Accelerate, "trusted", Conntrack::Off))
}

fn accelerate_verified(_: &Guest) -> Result<()> {
    run::tunless(Setup::tunless(Mode::Accelerate, "verified", Conntrack::On))
}
