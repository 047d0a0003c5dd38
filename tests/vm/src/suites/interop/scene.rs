//! Two nodes, each with tunless or with tunl0 alone.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use tunless_lab::{Daemon, Lab, Node, Pod};

use super::{Cell, Pairing};
use crate::{
    suites::{counted::Counted, smoke::config},
    tunl0,
};

/// Everything is compared every second, not every 10 s: a path MTU is learnt
/// without an event.
const HASTY: [(&str, &str); 1] = [("WATCHDOG_USEC", "2000000")];

/// A node, its pod, and its daemon if it has one.
pub struct Side<'a> {
    pub node: &'a Node,
    pub pod: &'a Pod,
    pub daemon: Option<&'a Daemon>,
}

/// The lab of one cell. Daemons go before the lab they are in.
pub struct Scene {
    daemon1: Option<Daemon>,
    daemon2: Option<Daemon>,
    pub lab: Lab,
    pub cell: Cell,
    /// The daemons' counters as last looked at.
    pub counted: RefCell<Vec<Counted>>,
}

impl Scene {
    pub fn new(cell: &Cell) -> Result<Self> {
        let lab = Lab::new().fabric_filter(true).build()?;
        let (on1, on2) = match cell.pairing {
            Pairing::TunlessTunl0 => (false, true),
            Pairing::Tunl0Tunless => (true, false),
            Pairing::TunlessTunless => (true, true),
        };
        let start = |has_tunless: bool, node: &Node, peer: &Node| -> Result<Option<Daemon>> {
            if !has_tunless || cell.mode == "accelerate" {
                tunl0::raise(node, peer)?;
            }
            let yaml = config(node, peer, cell.mode, cell.fastpath);
            has_tunless.then(|| Daemon::start_with(node, &yaml, &HASTY)).transpose()
        };
        let daemon1 = start(on1, &lab.node1, &lab.node2)?;
        let daemon2 = start(on2, &lab.node2, &lab.node1)?;
        // Nobody has counted yet.
        let counted = vec![Counted::default(); usize::from(on1) + usize::from(on2)];
        Ok(Self { daemon1, daemon2, lab, cell: *cell, counted: counted.into() })
    }

    /// node2 and node1, then the other way round.
    pub fn both_ways(&self) -> [(Side<'_>, Side<'_>); 2] {
        let (side2, side1) = (|| self.side2(), || self.side1());
        [(side2(), side1()), (side1(), side2())]
    }

    fn side1(&self) -> Side<'_> {
        let Lab { node1, .. } = &self.lab;
        Side { node: node1, pod: self.lab.sit(), daemon: self.daemon1.as_ref() }
    }

    fn side2(&self) -> Side<'_> {
        let Lab { node2, .. } = &self.lab;
        Side { node: node2, pod: self.lab.perf(), daemon: self.daemon2.as_ref() }
    }

    /// The daemons there are.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemon1.iter().chain(&self.daemon2)
    }

    pub fn is_replace(&self) -> bool {
        self.cell.mode == "replace"
    }

    /// Ends it all; nothing of it may have been amiss.
    pub fn finish(self) -> Result<()> {
        for daemon in [self.daemon1, self.daemon2].into_iter().flatten() {
            daemon.finish()?;
        }
        let problems = self.lab.problems();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}
