//! What a case measures.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// One figure. Time is the guest's: on a machine whose clock counts instructions it
/// is the same in every run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was sent: `udp64`, `tcp_bulk`, `tcp_rr`, `tcp_crr`; to a Service `service64`,
    /// `service-bulk`, `service-rr`, `service-crr`; or `sender`, `fabric`, `generator`, the parts of
    /// `udp64` that are no path's.
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

/// What one of our programs does to one packet by itself, by `BPF_PROG_TEST_RUN`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestRun {
    /// The program.
    pub program: String,
    /// The fast path it was loaded for.
    pub fastpath: String,
    /// What becomes of the packet: a reason to count, if one is counted.
    pub outcome: String,
    /// Whether that is what the program is for.
    pub hit: bool,
    /// The frame of the pod, Ethernet header included, bytes.
    pub bytes: u32,
    /// Entries of the map of routes.
    pub routes: u32,
    /// Whether the table of leases is full: of other flows' leases.
    pub leases_full: bool,
    /// Median over all runs of how long one takes, less one of a program that does
    /// nothing.
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
    test_runs: Arc<Mutex<Vec<TestRun>>>,
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

    /// Notes one of a program by itself.
    pub fn note_test_run(&self, run: TestRun) {
        self.test_runs.lock().unwrap_or_else(PoisonError::into_inner).push(run);
    }

    /// All of these so far, in their order.
    #[must_use]
    pub fn test_runs(&self) -> Vec<TestRun> {
        self.test_runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
