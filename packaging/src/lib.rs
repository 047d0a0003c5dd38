//! Packages of tunless.
//!
//! ```text
//! the project's files ──┐                        ┌── debian ── tunless_0.1.1-1_amd64.deb
//! the binary, stripped ─┼── Tree: a directory, ──┤
//! pages, completions ───┘   as it is installed   └── rpm ───── tunless-0.1.1-1.x86_64.rpm
//! ```
//!
//! Both formats run the same scripts (`packaging/scripts`). What installing, upgrading,
//! removing and purging do is in `docs/operations.md`.

mod contents;
mod debian;
mod rpm;
mod tool;
mod tree;
mod version;

pub use contents::{CONFIG, DOCUMENT, UNIT};
pub use debian::{Compression, build as debian};
pub use rpm::build as rpm;
pub use tree::Tree;
pub use version::Version;
