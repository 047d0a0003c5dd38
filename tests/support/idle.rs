//! How long a test run takes, and how much of that it takes by itself.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use dataplane_common::Program;
use tunless_lab::bpf;

use super::{
    run::Context,
    test_run::{Run, test_run},
    trampoline::Trampoline,
};

/// Programs that do nothing, run as ours are: what a test run takes by itself.
pub struct Idle {
    classifier: Trampoline,
    xdp: OwnedFd,
}

impl Idle {
    /// Loads them.
    #[must_use]
    pub fn load() -> Self {
        const PASS: i32 = 2;
        let program = |returned| {
            [
                bpf::instruction(bpf::opcode::MOVE, 0, 0, 0, returned),
                bpf::instruction(bpf::opcode::EXIT, 0, 0, 0, 0),
            ]
        };
        let classifier = bpf::load_classifier(&program(-1)).expect("it does nothing");
        let xdp = bpf::load_xdp(&program(PASS)).expect("it does nothing");
        Self { classifier: Trampoline::new(classifier.as_fd()), xdp }
    }

    /// How long the one in the place of `program` runs.
    #[must_use]
    pub fn time(&self, program: Program, packet: &[u8], context: &Context) -> Duration {
        match program {
            Program::DecapXdp => time_xdp(self.xdp.as_fd(), packet, context),
            _ => time(&self.classifier, packet, context),
        }
    }
}

pub(super) fn time(program: &Trampoline, packet: &[u8], context: &Context) -> Duration {
    let (mut out, mut skb) = (vec![0; packet.len() + 512], context.skb());
    let tc_index = context.tag;
    let mut run = Run { packet, out: &mut out, context: &mut skb, tc_index, repeat: 1 };
    program.run(&mut run).expect("a test run takes the frame").took
}

pub(super) fn time_xdp(program: BorrowedFd<'_>, packet: &[u8], context: &Context) -> Duration {
    let (mut out, mut xdp) = (vec![0; packet.len() + 512], context.xdp(packet.len()));
    let mut run = Run { packet, out: &mut out, context: &mut xdp, tc_index: 0, repeat: 1 };
    test_run(program, &mut run, 1).expect("a test run takes the frame").took
}
