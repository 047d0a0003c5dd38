//! What `cargo xtask bench deterministic` measures, on a machine whose clock counts
//! instructions.
//!
//! A suite is one [`path`] from pod to pod, in a boot of its own, so that nothing
//! of one is left when the next is measured; its cases are rulesets of different
//! sizes. One more suite measures what all paths have in common ([`base`]), and one our
//! programs by themselves ([`cost`]).
//!
//! ```text
//!  perf ── cali ┐                               ┌ cali ── sit, where packets are counted
//!             node2 ── eth0 ── router ── eth0 ── node1    and dropped
//! ```

mod base;
pub mod cost;
mod flowtable;
mod growth;
mod limit;
mod path;
mod pktgen;
mod profile;
mod programs;
pub mod service;
mod sink;
mod stage;
mod tcp;
mod udp;

use anyhow::{Context as _, Result};
use tunless_lab::Lab;

use self::path::PATHS;
pub use self::{path::Path, stage::Stage};
use crate::{
    Kernel,
    suites::{Case, Guest, Suite},
};

/// The suite of [`base`].
pub const BASE: Suite = Suite {
    name: "bench-base",
    about: "what 64-byte UDP costs on every path: sender and fabric alone",
    parts: &[],
    cases: |_| vec![Case { name: "base", loads_tunless: false, run: base::measure }],
};

/// How many pods' chains Felix's ruleset has on each node.
pub const ENDPOINTS: [u32; 3] = [0, 50, 500];

/// The suite of a path.
#[must_use]
pub fn suite(path: &Path) -> Suite {
    let cases = if path.has_routes() { cases_with_growth } else { cases };
    Suite { name: path.suite, about: path.about, parts: &[], cases }
}

/// The suite of that name.
#[must_use]
pub fn find(name: &str) -> Option<Suite> {
    if let Some(suite) = [BASE, cost::SUITE].into_iter().find(|suite| suite.name == name) {
        return Some(suite);
    }
    PATHS.iter().find_map(|path| {
        let profiled = || (path.profile == name).then(|| profile::suite(path));
        (path.suite == name).then(|| suite(path)).or_else(profiled)
    })
}

/// All paths that there are on a kernel.
pub fn paths(kernel: Kernel) -> impl Iterator<Item = &'static Path> {
    PATHS.iter().filter(move |path| path.is_on(kernel))
}

fn cases(_: Kernel) -> Vec<Case> {
    let case = |name, run| Case { name, loads_tunless: true, run };
    vec![
        case("no endpoints", |guest| measure(guest, ENDPOINTS[0])),
        case("50 endpoints", |guest| measure(guest, ENDPOINTS[1])),
        case("500 endpoints", |guest| measure(guest, ENDPOINTS[2])),
    ]
}

fn cases_with_growth(kernel: Kernel) -> Vec<Case> {
    let growth = Case { name: "100,000 routes", loads_tunless: true, run: growth::measure };
    cases(kernel).into_iter().chain([growth]).collect()
}

fn measure(guest: &Guest, endpoints: u32) -> Result<()> {
    let stage = set(guest, endpoints)?;
    if stage.path.carries_tcp_beside(endpoints) {
        tcp::measure(&stage, &guest.figures)?;
    }
    udp::measure(&stage, &guest.figures)?;
    stage.clear()
}

/// The path of that name.
#[must_use]
pub fn path(name: &str) -> Option<&'static Path> {
    PATHS.iter().find(|path| path.name == name)
}

/// The stage of the suite's path.
fn set(guest: &Guest, endpoints: u32) -> Result<Stage> {
    let path = PATHS.iter().find(|path| path.suite == guest.suite || path.profile == guest.suite);
    let path = path.with_context(|| format!("there is no path for the suite {}", guest.suite))?;
    stage::make_room_for_flows()?;
    Stage::set(path, Lab::new().build()?, endpoints)
}
