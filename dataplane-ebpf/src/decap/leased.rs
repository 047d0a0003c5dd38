//! The lease of a packet from the wire.

use dataplane_common::{Direction, Ipv4Be, Reason, ipv4::Ipv4Header};

use crate::{
    flow::{self, NoFlow, Seen},
    lease::{self, Leased, NoLease},
    packet::Frame,
    settings,
};

/// What the leases say.
pub enum Lookup {
    /// The flow has one, of the very node that sent the packet: which is what
    /// the source check would find out by two lookups.
    Leased(Leased),
    /// It has none: why, and the proof to take along through the stack, 0 if
    /// there is nothing to ask for. So it is, too, where the fast path goes by no leases.
    NoLease { reason: Reason, proof: u16 },
}

impl Lookup {
    /// Whether the sender's right to its source is already known.
    #[inline(always)]
    pub fn vouches(&self) -> bool {
        matches!(self, Self::Leased(_))
    }
}

/// Asks for the packet whose inner header is `at` bytes into the frame. That
/// header may be anything so far: a wrong one is found before it is used.
#[inline(always)]
pub fn look(frame: Frame, at: usize, node: Ipv4Be, now: u64) -> Lookup {
    let no = |reason| Lookup::NoLease { reason, proof: 0 };
    if !settings::is_verified() {
        return no(Reason::DecapToStack);
    }
    let Some(header) = frame.read::<Ipv4Header>(at) else { return no(Reason::DecapNoPortsToStack) };
    let seen = match flow::read(frame, at, &header, Direction::Decap) {
        Ok(seen) => seen,
        Err(NoFlow::Options) => return no(Reason::DecapOptionsToStack),
        Err(NoFlow::Fragment) => return no(Reason::DecapFragmentToStack),
        Err(NoFlow::NoPorts) => return no(Reason::DecapNoPortsToStack),
    };
    let Seen { flow, is_control } = seen;
    if is_control {
        return no(Reason::DecapControlToStack);
    }
    let reason = match lease::find(&flow, now) {
        Ok(leased) if leased.node == node => return Lookup::Leased(leased),
        Ok(_) | Err(NoLease::Missing) => Reason::DecapNoLeaseToStack,
        Err(NoLease::Expired) => Reason::DecapLeaseExpiredToStack,
        Err(NoLease::Outdated) => Reason::DecapLeaseOutdatedToStack,
    };
    Lookup::NoLease { reason, proof: flow.proof(settings::secret()) }
}
