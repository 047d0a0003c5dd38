//! The user side of tunless.

pub mod bpf;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod desired;
pub mod kernel;
pub mod object;
pub mod plan;
pub mod policy;
pub mod tables;
