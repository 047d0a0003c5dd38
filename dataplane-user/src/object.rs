//! The compiled eBPF programs, carried in the binary.

/// The programs that packets meet: the ELF object of `dataplane-ebpf`, as `build.rs` made it.
pub static DATAPLANE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane"));

/// The iterator that reads programs of others: `listing.rs` of the same crate.
pub static LISTING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/listing"));

/// What `tunless trace` watches the programs and the kernel with: `trace.rs` of the same crate.
pub static TRACE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/trace"));
