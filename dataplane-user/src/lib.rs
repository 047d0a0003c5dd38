//! User side.
