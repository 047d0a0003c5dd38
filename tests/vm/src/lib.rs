//! What runs inside the virtual machines of `cargo xtask vm`.
//!
//! The binary is the guest's init ([`init`]), then, as a child of itself, the
//! runner of one suite ([`runner`]) or a shell in the lab ([`shell`]). The host
//! reads its report from a serial port of its own ([`report`]); the kernel's
//! console stays the kernel's.
//!
//! xtask uses this crate for what both sides must agree on: kernels, suites,
//! the report, the kernel's command line. It knows `tunless` by its command
//! line only, so xtask builds before the eBPF toolchain exists.

pub mod bench;
pub mod checks;
pub mod command_line;
pub mod figures;
pub mod init;
pub mod kernel;
pub mod report;
pub mod runner;
pub mod shell;
pub mod suites;
pub mod tunl0;

pub use kernel::Kernel;

/// Where the guest finds the modules to load, one path per line, in order.
pub const MODULES: &str = "/etc/tunless-vm/modules";

/// Where the guest finds the `tunless` under test.
pub const TUNLESS: &str = "/usr/bin/tunless";
