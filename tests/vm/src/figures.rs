//! What a case measures.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One figure. Time is the guest's: on a machine whose clock counts instructions it
/// is the same in every run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was sent: `udp64`, `tcp_bulk`, `tcp_rr`, `tcp_crr`; or `sender`,
    /// `fabric`, `generator`, the parts of `udp64` that are no path's.
    pub load: String,
    /// How many endpoints' chains the ruleset of each node has.
    pub endpoints: u32,
    /// Flows at a time.
    pub flows: u32,
    /// Routes in the map of each node, where that is what is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<u32>,
    /// For one packet, MiB, transaction or connection.
    pub nanoseconds: f64,
    /// Programs that ran for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramCost>,
}

/// What one of the BPF programs on the way took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// How often it ran for one packet.
    pub runs: f64,
    /// Nanoseconds of each run, with reading the clock twice, and with the helpers
    /// that it calls.
    pub nanoseconds: f64,
}

/// What a profile needs to be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Symbols {
    /// How many packets, or MiB, were sent while it was taken.
    pub units: u64,
    /// The kernel's functions: a line for each, `/proc/kallsyms` without the types.
    pub text: String,
}

/// The figures of a case so far.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    figures: Arc<Mutex<Vec<Figure>>>,
    symbols: Arc<Mutex<Option<Symbols>>>,
}

impl Figures {
    /// Notes one.
    pub fn note(&self, figure: Figure) {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).push(figure);
    }

    /// All so far, in their order.
    #[must_use]
    pub fn so_far(&self) -> Vec<Figure> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what the profile that was taken needs.
    pub fn note_symbols(&self, symbols: Symbols) {
        *self.symbols.lock().unwrap_or_else(PoisonError::into_inner) = Some(symbols);
    }

    /// The same, if a profile was taken.
    #[must_use]
    pub fn symbols(&self) -> Option<Symbols> {
        self.symbols.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
