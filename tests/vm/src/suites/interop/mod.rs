//! Every pairing of tunless and tunl0, in both modes, with every fast path.

mod checks;
mod scene;

use anyhow::{Context as _, Result};

use self::scene::Scene;
use super::{Case, Guest, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "interop",
    about: "tunless and the kernel's tunl0 in every pairing, mode and fast path",
    parts: &["mode", "fast path", "node2 and node1"],
    cases,
};

/// What runs on the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pairing {
    TunlessTunl0,
    Tunl0Tunless,
    TunlessTunless,
}

/// One row of the matrix.
#[derive(Clone, Copy, Debug)]
struct Cell {
    name: &'static str,
    mode: &'static str,
    fastpath: &'static str,
    pairing: Pairing,
}

macro_rules! cells {
    ($($mode:literal $fastpath:literal;)*) => {
        &[$(
            cells!($mode, $fastpath, "tunless+tunl0", Pairing::TunlessTunl0),
            cells!($mode, $fastpath, "tunl0+tunless", Pairing::Tunl0Tunless),
            cells!($mode, $fastpath, "tunless+tunless", Pairing::TunlessTunless),
        )*]
    };
    ($mode:literal, $fastpath:literal, $nodes:literal, $pairing:expr) => {
        Cell {
            name: concat!($mode, "::", $fastpath, "::", $nodes),
            mode: $mode,
            fastpath: $fastpath,
            pairing: $pairing,
        }
    };
}

const CELLS: &[Cell] = cells! {
    "replace" "off";
    "replace" "trusted";
    "replace" "verified";
    "accelerate" "off";
    "accelerate" "trusted";
    "accelerate" "verified";
};

fn cases(_: Kernel) -> Vec<Case> {
    CELLS.iter().map(|cell| Case { name: cell.name, loads_tunless: true, run }).collect()
}

fn run(guest: &Guest) -> Result<()> {
    let cell = CELLS.iter().find(|cell| cell.name == guest.case).context("no such cell")?;
    let scene = Scene::new(cell)?;
    let checks = &guest.checks;
    checks.check("ping", || scene.ping());
    checks.check("tcp", || scene.tcp());
    for (name, size) in [("udp 64", 64), ("udp 1400", 1400), ("udp 8k", 8192), ("udp 64k", 65_507)]
    {
        checks.check(name, || scene.udp(size));
    }
    checks.check("host", || scene.host());
    checks.check("service", || scene.service());
    checks.check("pmtu", || scene.pmtu());
    checks.check("wire", || scene.wire());
    scene.finish()
}
