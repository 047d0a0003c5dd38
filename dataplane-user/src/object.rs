//! The compiled eBPF programs, carried in the binary.

/// The ELF object of `dataplane-ebpf`, as `build.rs` made it.
pub static DATAPLANE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane"));
