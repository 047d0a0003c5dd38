//! How a packet leaves a program: what is counted, and what the hook gets.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use dataplane_common::{Reason, Verdict};

use crate::count;

/// What becomes of a packet.
#[derive(Clone, Copy)]
pub enum Exit {
    /// We sent it on its way.
    Sent(Sent),
    /// The reason's verdict says: passed or dropped.
    Left(Reason),
}

/// A packet on its way: the reason to count and the action the redirect helper returned.
#[derive(Clone, Copy)]
pub struct Sent {
    pub reason: Reason,
    pub action: i32,
}

/// What a list of steps ends in: each goes on, or names the reason why it does not.
pub type Steps = Result<Sent, Reason>;

impl From<Steps> for Exit {
    #[inline(always)]
    fn from(steps: Steps) -> Self {
        match steps {
            Ok(sent) => Self::Sent(sent),
            Err(reason) => Self::Left(reason),
        }
    }
}

/// Counts a frame of `length` bytes and returns the action for TC. `TC_ACT_UNSPEC`
/// passes to the next program on the hook; `TC_ACT_OK` would switch off every
/// program behind us.
#[inline(always)]
pub fn tc(length: u32, exit: Exit) -> i32 {
    match exit {
        Exit::Sent(Sent { reason, action }) => {
            count::reason(reason, length);
            action
        }
        Exit::Left(reason) => {
            count::reason(reason, length);
            match reason.verdict() {
                Verdict::Dropped => TC_ACT_SHOT,
                Verdict::Passed | Verdict::Forwarded => TC_ACT_UNSPEC,
            }
        }
    }
}

/// As [`tc`], for XDP.
#[inline(always)]
pub fn xdp(length: u32, reason: Reason) -> u32 {
    count::reason(reason, length);
    match reason.verdict() {
        Verdict::Dropped => xdp_action::XDP_DROP,
        Verdict::Passed | Verdict::Forwarded => xdp_action::XDP_PASS,
    }
}
