//! The source `kubernetes` against an API that lists and watches, and breaks.

#![cfg(feature = "kubernetes")]

mod claims;
mod cost;
mod credentials;
mod discovery;
mod polled;
mod source;
mod trouble;
