//! `BPF_PROG_TEST_RUN` itself.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use nix::libc;
use tunless_lab::bpf::call;

const PROG_TEST_RUN: libc::c_int = 10;

/// What a test run gets and gives.
pub struct Run<'a> {
    /// The frame.
    pub packet: &'a [u8],
    /// Where the frame goes; cut to its length.
    pub out: &'a mut Vec<u8>,
    /// `struct __sk_buff` or `struct xdp_md`, and what became of it.
    pub context: &'a mut [u8],
    /// What an ingress hook left in `tc_index`.
    pub tc_index: u16,
    /// How often the program runs.
    pub repeat: u32,
}

/// What it came to.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// What the program returned the last time.
    pub returned: i32,
    /// How long it ran, on average over all times, with two looks at the clock
    /// (`net/bpf/test_run.c`, `bpf_test_timer_continue`).
    pub took: Duration,
}

/// Runs a TC or XDP program `repeat` times. `EINVAL` for a frame no test run takes.
pub fn test_run(program: BorrowedFd<'_>, run: &mut Run<'_>, repeat: u32) -> io::Result<Done> {
    /// The part of `union bpf_attr` (`linux/bpf.h`) that the command reads.
    #[repr(C)]
    struct Attributes {
        program: u32,
        returned: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        padding: u32,
    }

    let mut attributes = Attributes {
        program: program.as_raw_fd().cast_unsigned(),
        returned: 0,
        data_size_in: run.packet.len() as u32,
        data_size_out: run.out.len() as u32,
        data_in: run.packet.as_ptr() as u64,
        data_out: run.out.as_mut_ptr() as u64,
        repeat,
        duration: 0,
        context_size_in: run.context.len() as u32,
        context_size_out: run.context.len() as u32,
        context_in: run.context.as_ptr() as u64,
        context_out: run.context.as_mut_ptr() as u64,
        flags: 0,
        cpu: 0,
        batch_size: 0,
        padding: 0,
    };
    call(PROG_TEST_RUN, &mut attributes)?;
    run.out.truncate(attributes.data_size_out as usize);
    Ok(Done {
        returned: attributes.returned as i32,
        took: Duration::from_nanos(attributes.duration.into()),
    })
}
