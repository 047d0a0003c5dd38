//! The user side of tunless.

pub mod config;
pub mod object;
