//! The user side of tunless.

pub mod object;
