//! The same row while a `tunless try` goes on, and once it is over.

use dataplane_common::Reason;

use super::Case;
use crate::{
    prog::{Action, Program},
    world::Entry,
};

/// Just after the clock began, nanoseconds.
const LONG_AGO: u64 = 1;

impl Case {
    /// The same while a `tunless try` goes on, which is over at `end` (`CLOCK_MONOTONIC`, nanoseconds;
    /// 0: it was kept).
    #[must_use]
    pub fn tried(mut self, end: u64) -> Self {
        self.is_tried = true;
        self.with(Entry::TryEnds(end))
    }

    /// The same packet in the same circumstances once a try is over: nothing happens but that it is counted.
    /// `None` on the tunnel device of our own, without which there is no tunl0 to go back to.
    #[must_use]
    pub fn try_over(self) -> Option<Self> {
        let reason = match self.program {
            Program::EncapPod => Some(Reason::PodTryOver),
            Program::EncapHost if self.tunnel_header != 0 => return None,
            Program::EncapHost => Some(Reason::Tunl0TryOver),
            Program::DecapTc => Some(Reason::DecapTryOver),
            Program::DecapXdp | Program::ShadowIn | Program::ShadowOut => None,
            Program::GrantDecap => Some(Reason::GrantTryOver),
        };
        let mut case = Self {
            action: Action::Pass,
            out: self.packet.clone(),
            metadata: self.context.metadata.clone(),
            mark: self.context.mark,
            tag: self.context.tag,
            phase: self.link.phase,
            leaves: Vec::new(),
            leases: Vec::new(),
            notes: None,
            counts: Vec::new(),
            nodes: Vec::new(),
            ..self
        };
        for _ in 0..case.context.repeat {
            case = reason.into_iter().fold(case, Self::count);
        }
        Some(case.tried(LONG_AGO))
    }
}
