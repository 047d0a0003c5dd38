//! Does it work at all, on this kernel, with tunl0 at the other end?

mod clsact;
mod interop;
mod machine;

use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "smoke",
    about: "tunless beside the kernel's tunl0: pings, TCP and UDP, both ways",
    cases,
};

fn cases(kernel: Kernel) -> Vec<Case> {
    let mut cases = machine::CASES.to_vec();
    cases.extend(if kernel.has_tcx() { interop::CASES } else { clsact::CASES });
    cases
}
