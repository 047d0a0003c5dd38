//! `skb->tc_index` for test runs, which take and show it of no packet
//! (`net/bpf/test_run.c`, `convert___skb_to_skb`).
//!
//! A program of a few instructions gets the run instead: it puts a number
//! from `skb->cb`, which a test run does take, into `tc_index` and tail-calls
//! the program in question. On the run after the last it puts `tc_index` into
//! `cb` instead, which a test run shows.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::libc;
use tunless_lab::bpf::{
    call, instruction, load_classifier,
    opcode::{ADD, CALL, COPY, EXIT, IF_EQUAL, LOAD_MAP, LOAD_WORD, MOVE, STORE_WORD},
    open, raw,
};

use super::test_run::{Done, Run, test_run};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_ARRAY: u32 = 3;

/// `struct __sk_buff`.
const TC_INDEX: i16 = 44;
/// `cb[0]`: the number to set, later the one found.
const NUMBER: i16 = 48;
/// `cb[1]`: 1 until it is set.
const UNSET: i16 = 52;
/// `cb[2]`: how many runs are left before the one that looks.
const RUNS: i16 = 56;

/// Stands in front of one TC program.
pub struct Trampoline {
    program: OwnedFd,
    /// Keeps the program it leads to.
    _leads_to: OwnedFd,
}

impl Trampoline {
    /// In front of `program`.
    #[must_use]
    pub fn new(program: BorrowedFd<'_>) -> Self {
        let array = prog_array(program).expect("a program array holds the program");
        let program = load_classifier(&instructions(raw(&array)))
            .expect("the verifier takes a few instructions");
        Self { program, _leads_to: array }
    }

    /// Runs the program. `EINVAL` for a frame no test run takes.
    pub fn run(&self, run: &mut Run<'_>) -> io::Result<Done> {
        // Never so many that it would look.
        self.test_run(run, u32::MAX, run.repeat)
    }

    /// Runs the program; what `tc_index` is afterwards.
    pub fn tc_index(&self, run: &mut Run<'_>) -> io::Result<u32> {
        self.test_run(run, run.repeat, run.repeat + 1)?;
        let at = NUMBER as usize;
        let bytes = run.context[at..at + 4].try_into().expect("four bytes");
        Ok(u32::from_ne_bytes(bytes))
    }

    fn test_run(&self, run: &mut Run<'_>, before_look: u32, repeat: u32) -> io::Result<Done> {
        for (at, value) in [(NUMBER, u32::from(run.tc_index)), (UNSET, 1), (RUNS, before_look)] {
            run.context[at as usize..][..4].copy_from_slice(&value.to_ne_bytes());
        }
        test_run(self.program.as_fd(), run, repeat)
    }
}

fn prog_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let mut create = Create { map_type: PROG_ARRAY, key_size: 4, value_size: 4, max_entries: 1 };
    let array = open(MAP_CREATE, &mut create)?;
    let (key, value) = (0_u32, program.as_raw_fd() as u32);
    let (key, value) = ((&raw const key) as u64, (&raw const value) as u64);
    let mut update = Update { map: raw(&array), padding: 0, key, value, flags: 0 };
    call(MAP_UPDATE_ELEM, &mut update)?;
    Ok(array)
}

fn instructions(array: u32) -> Vec<u64> {
    const MAP_FD: u8 = 1;
    const TAIL_CALL: i32 = 12;
    const NO_VERDICT: i32 = 99;
    vec![
        instruction(COPY, 6, 1, 0, 0),
        // Is this the run that looks?
        instruction(LOAD_WORD, 2, 6, RUNS, 0),
        instruction(IF_EQUAL, 2, 0, 13, 0),
        instruction(ADD, 2, 0, 0, -1),
        instruction(STORE_WORD, 6, 2, RUNS, 0),
        // Only before the first run.
        instruction(LOAD_WORD, 2, 6, UNSET, 0),
        instruction(IF_EQUAL, 2, 0, 4, 0),
        instruction(LOAD_WORD, 2, 6, NUMBER, 0),
        instruction(STORE_WORD, 6, 2, TC_INDEX, 0),
        instruction(MOVE, 2, 0, 0, 0),
        instruction(STORE_WORD, 6, 2, UNSET, 0),
        instruction(COPY, 1, 6, 0, 0),
        instruction(LOAD_MAP, 2, MAP_FD, 0, array as i32),
        0,
        instruction(MOVE, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, TAIL_CALL),
        // Here if there was nobody to call, too: no verdict of ours.
        instruction(LOAD_WORD, 2, 6, TC_INDEX, 0),
        instruction(STORE_WORD, 6, 2, NUMBER, 0),
        instruction(MOVE, 0, 0, 0, NO_VERDICT),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}
