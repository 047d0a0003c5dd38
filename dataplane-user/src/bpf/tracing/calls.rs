//! Calls of `bpf(2)` for programs that watch another program, which aya loads for functions of the kernel
//! only.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_insn;

use crate::bpf::sys::{call, descriptor};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_BTF_GET_FD_BY_ID: libc::c_int = 19;
const BPF_PROG_TYPE_TRACING: u32 = 26;
/// Bytes of the verifier's log.
const LOG: usize = 256 << 10;

/// What a program of `BPF_PROG_TYPE_TRACING` watches.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// The type of what is watched, in the type information of `program` or, without one, of the kernel.
    pub btf_id: u32,
    /// The program that is watched.
    pub program: Option<BorrowedFd<'a>>,
}

/// Loads a program.
///
/// # Errors
/// The kernel's error, and the last line that the verifier wrote.
pub fn load(
    license: &CStr,
    instructions: &[bpf_insn],
    target: Target<'_>,
) -> Result<OwnedFd, (io::Error, String)> {
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
        types: u32,
        function_info_size: u32,
        function_info: u64,
        function_info_count: u32,
        line_info_size: u32,
        line_info: u64,
        line_info_count: u32,
        attach_btf_id: u32,
        attach_program: u32,
        core_relocations: u32,
    }
    // The kernel reads all of it, and what a compiler puts in between is not zero.
    const _: () = assert!(size_of::<Attributes>() == 120, "there is padding");

    let mut attributes = Attributes {
        kind: BPF_PROG_TYPE_TRACING,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"tunless_trace\0\0\0",
        ifindex: 0,
        attach_type: target.attach_type,
        types: 0,
        function_info_size: 0,
        function_info: 0,
        function_info_count: 0,
        line_info_size: 0,
        line_info: 0,
        line_info_count: 0,
        attach_btf_id: target.btf_id,
        attach_program: target.program.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
        core_relocations: 0,
    };
    let error = match call(BPF_PROG_LOAD, &mut attributes).and_then(descriptor) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the reason.
    let mut log = vec![0_u8; LOG];
    attributes.log_level = 1;
    attributes.log_size = LOG as u32;
    attributes.log = log.as_mut_ptr() as u64;
    match call(BPF_PROG_LOAD, &mut attributes).and_then(descriptor) {
        Ok(program) => Ok(program),
        Err(_) => Err((error, last_line(&log))),
    }
}

/// The last line of a verifier's log that is no statistics.
fn last_line(log: &[u8]) -> String {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let is_telling = |line: &&str| !line.is_empty() && !line.starts_with("processed ");
    text.lines().rev().find(is_telling).unwrap_or_default().to_owned()
}

/// Starts a loaded program; it runs until the descriptor is closed.
///
/// # Errors
/// If the kernel refuses.
pub fn start(program: &OwnedFd) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Attributes {
        name: u64,
        program: u32,
        padding: u32,
        cookie: u64,
    }

    let program = program.as_raw_fd().cast_unsigned();
    let mut attributes = Attributes { name: 0, program, padding: 0, cookie: 0 };
    call(BPF_RAW_TRACEPOINT_OPEN, &mut attributes).and_then(descriptor)
}

/// Reads the type information with this number.
///
/// # Errors
/// If there is none, or the kernel refuses.
pub fn types(id: u32) -> io::Result<Vec<u8>> {
    /// `struct bpf_btf_info`, without what newer kernels add.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        types: u64,
        size: u32,
        id: u32,
        name: u64,
        name_length: u32,
        is_kernel: u32,
    }

    /// The part of `union bpf_attr` that reading reads.
    #[repr(C)]
    struct Attributes {
        descriptor: u32,
        length: u32,
        info: u64,
    }

    let types = call(BPF_BTF_GET_FD_BY_ID, &mut [id, 0, 0]).and_then(descriptor)?;
    let read = |info: &mut Info| {
        let length = size_of::<Info>() as u32;
        let descriptor = types.as_raw_fd().cast_unsigned();
        let info = std::ptr::from_mut(info) as u64;
        call(BPF_OBJ_GET_INFO_BY_FD, &mut Attributes { descriptor, length, info })
    };
    // First how large it is, then what it holds.
    let mut info = Info::default();
    read(&mut info)?;
    let mut bytes = vec![0_u8; info.size as usize];
    info = Info { types: bytes.as_mut_ptr() as u64, size: info.size, ..Info::default() };
    read(&mut info)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_last_line_that_is_no_statistics() {
        let log = b"func#0 @0\nR1 type=scalar expected=fp\nprocessed 3 insns (limit 1000000)\n\0\0";
        assert_eq!(last_line(log), "R1 type=scalar expected=fp");
        assert_eq!(last_line(&[0; 8]), "");
    }
}
