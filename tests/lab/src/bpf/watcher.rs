//! TC programs like those of agents that watch pods' packets.

use std::{io, os::fd::OwnedFd};

use super::{
    instruction, load_named_classifier,
    opcode::{CALL, EXIT, MOVE},
};

/// `TC_ACT_UNSPEC`: the next program has the packet.
pub const ON: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;

/// Two instructions that end a program with this answer.
#[must_use]
pub fn answer(number: i32) -> [u64; 2] {
    [instruction(MOVE, 0, 0, 0, number), instruction(EXIT, 0, 0, 0, 0)]
}

/// A program of more instructions than two pieces have that the daemon reads at once.
#[must_use]
pub fn long(number: i32) -> Vec<u64> {
    let mut program = vec![instruction(MOVE, 1, 0, 0, 7); 5000];
    program.extend(answer(number));
    program
}

/// A program with a function, which may answer otherwise.
#[must_use]
pub fn with_function(program: i32, function: i32) -> Vec<u64> {
    let mut all = vec![instruction(CALL, 0, 1, 0, 2)];
    all.extend(answer(program));
    all.extend(answer(function));
    all
}

/// A long program with a function, named like one of `NetObserv`'s, that passes each packet on.
pub fn load() -> io::Result<OwnedFd> {
    let mut program = vec![instruction(CALL, 0, 1, 0, 5002)];
    program.extend(long(ON));
    program.extend(answer(DROP));
    load_named_classifier("tcx_ingress_flo", &program)
}
