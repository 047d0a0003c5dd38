//! Programs, maps and links in the kernel, and their pins.

pub mod by_address;
pub mod entries;
pub mod epochs;
pub mod features;
pub mod filters;
pub mod foreign;
pub mod frozen;
pub mod handovers;
pub mod hook;
pub mod kernel_types;
pub mod links;
pub mod listing;
pub mod maps;
pub mod masks;
pub mod node_counters;
pub mod pins;
pub mod programs;
pub mod routes;
pub mod shadow;
pub mod sys;
pub mod tracing;
pub mod verdict;
pub mod verifier;

pub use self::{
    hook::Hook,
    links::{AttachedLink, Attachment},
    maps::Maps,
    pins::Pins,
    programs::Programs,
};
