//! Packages of tunless.
//!
//! ```text
//! the project's files ──┐                        ┌── debian ── tunless_0.1.1-1_amd64.deb
//! the binary, stripped ─┼── Tree: a directory, ──┤
//! pages, completions ───┘   as it is installed   └── rpm ───── tunless-0.1.1-1.x86_64.rpm
//! ```
//!
//! Both run the same scripts (`packaging/scripts`). What installing, upgrading,
//! removing and purging do is in `docs/operations.md`.
//!
//! The third form is a container [image]: the program alone, on a few of Debian's files.

mod contents;
mod debian;
pub mod image;
mod rpm;
mod tool;
mod tree;
mod version;

pub use contents::{CONFIG, DOCUMENT, UNIT};
pub use debian::{Compression, build as debian};
pub use rpm::build as rpm;
pub use tree::Tree;
pub use version::Version;
