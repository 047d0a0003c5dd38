//! tunless.
fn main() {}
