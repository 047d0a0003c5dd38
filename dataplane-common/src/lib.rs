//! Shared types.
#![no_std]
