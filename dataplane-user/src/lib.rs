//! The user side of tunless: the daemon and the CLI.
//!
//! Sources report where pods live (`sources`), the kernel what the host is like
//! (`kernel`); `desired` computes one state from both, `tables` compare it with what
//! is there and repair the difference. The CLI reads the same pins.

pub mod address;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod config;
pub mod container;
pub mod daemon;
pub mod desired;
pub mod doctor;
pub mod exit;
pub mod explain;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod netfilter;
pub mod object;
pub mod output;
pub mod plan;
pub mod privilege;
pub mod protocol;
pub mod rate;
pub mod run_dir;
pub mod schema;
pub mod shadow;
pub mod sources;
pub mod tables;
pub mod top;
pub mod trace;
pub mod vocabulary;
