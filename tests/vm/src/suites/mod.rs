//! The suites that a guest can run.
//!
//! A further suite is a module here with its `SUITE`, and its name in [`ALL`].

pub mod accelerate;
pub mod counted;
pub mod flowtable;
pub mod hosts;
pub mod interop;
pub mod ipsec;
pub mod parity;
pub mod shadow_report;
pub mod smoke;
pub mod spread;
pub mod underlay;
pub mod xdp;

use anyhow::Result;

use crate::{Kernel, bench, checks::Checks, figures::Figures};

/// Every suite.
pub const ALL: &[Suite] = &[
    smoke::SUITE,
    interop::SUITE,
    accelerate::SUITE,
    parity::SUITE,
    underlay::SUITE,
    ipsec::SUITE,
    hosts::SUITE,
    flowtable::SUITE,
    xdp::SUITE,
    spread::SUITE,
];

/// The suite that `cargo xtask test` runs on every kernel.
pub const SMOKE: &str = smoke::SUITE.name;

/// Cases that are run together, in one boot.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// As typed after `--suite`.
    pub name: &'static str,
    /// What it catches.
    pub about: &'static str,
    /// What the parts of its cases' names are, between `::`. Empty: its cases make
    /// no checks that are shown as a table.
    pub parts: &'static [&'static str],
    /// Its cases on a kernel, in their order.
    pub cases: fn(Kernel) -> Vec<Case>,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, unique in its suite.
    pub name: &'static str,
    /// Whether our programs run in the kernel from here on: what the kernel
    /// dies of afterwards may be our doing.
    pub loads_tunless: bool,
    /// The case; an error or a panic fails it.
    pub run: fn(&Guest) -> Result<()>,
}

/// The machine that cases run in.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel that was asked for.
    pub kernel: Kernel,
    /// The name of the suite.
    pub suite: &'static str,
    /// The name of the case that runs: which row of its suite's table it is.
    pub case: &'static str,
    /// What it has found out.
    pub checks: Checks,
    /// What it has measured.
    pub figures: Figures,
}

/// The suite called `name`, also those of [`bench`], which are in no table.
#[must_use]
pub fn find(name: &str) -> Option<Suite> {
    ALL.iter().find(|suite| suite.name == name).copied().or_else(|| bench::find(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_suite_has_cases_on_every_kernel_and_names_are_unique() {
        let names: BTreeSet<_> = ALL.iter().map(|suite| suite.name).collect();
        assert_eq!(names.len(), ALL.len());
        for suite in ALL {
            for kernel in Kernel::ALL {
                let cases = (suite.cases)(kernel);
                let names: BTreeSet<_> = cases.iter().map(|case| case.name).collect();
                assert!(!cases.is_empty(), "{} on {}", suite.name, kernel.name());
                assert_eq!(names.len(), cases.len(), "{} on {}", suite.name, kernel.name());
                for name in names.iter().filter(|_| !suite.parts.is_empty()) {
                    assert_eq!(name.split("::").count(), suite.parts.len(), "{name}");
                }
            }
        }
    }
}
