//! The user side of tunless: the daemon and the CLI.
//!
//! Sources say where pods live (`config`), the kernel says what the host is
//! like (`kernel`); `desired` makes one state of both, `tables` compare it with
//! what is and mend the difference. The CLI reads the same pins.

pub mod address;
pub mod bpf;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod desired;
pub mod exit;
pub mod kernel;
pub mod logging;
pub mod netfilter;
pub mod object;
pub mod output;
pub mod plan;
pub mod policy;
pub mod privilege;
pub mod run_dir;
pub mod sources;
pub mod tables;
