//! The lease of a packet from the wire.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Direction, Ipv4Be, NodeIndex, Reason};

use crate::{
    flow::{self, Control, NoFlow, Seen},
    lease::{self, Hit, Miss, Slot, service},
    packet::{ETHERNET, Frame},
    settings,
};

/// What the leases say.
pub enum Lookup<'a> {
    /// The flow has one, of the very node that sent the packet: which is what
    /// the source check would find out by two lookups.
    Hit(&'a mut Hit),
    /// It has none: why, and the tag to take along through the stack, 0 if
    /// there is nothing to ask for. Also where the fast path does not use leases.
    Miss { reason: Reason, tag: u16 },
}

impl Lookup<'_> {
    /// Where the sender is counted, if its right to its source is already known.
    #[inline(always)]
    pub fn vouched(&self) -> Option<NodeIndex> {
        match self {
            Self::Hit(hit) => Some(hit.index),
            Self::Miss { .. } => None,
        }
    }
}

/// The name of what keeps a packet from the wire from the fast path.
#[inline(always)]
pub fn reason(no_flow: NoFlow) -> Reason {
    match no_flow {
        NoFlow::Options => Reason::DecapOptionsToStack,
        NoFlow::Fragment => Reason::DecapFragmentToStack,
        NoFlow::NoPorts => Reason::DecapNoPortsToStack,
    }
}

/// Asks for the packet whose inner header is `at` bytes into the frame. That
/// header may be anything so far: a wrong one is found before it is used.
#[inline(always)]
pub fn lookup(frame: Frame, at: usize, node: Ipv4Be, now: u64, slot: &mut Slot) -> Lookup<'_> {
    let no = |reason| Lookup::Miss { reason, tag: 0 };
    if !settings::is_verified() {
        return no(Reason::DecapToStack);
    }
    let Some(header) = frame.ipv4(at) else { return no(Reason::DecapNoPortsToStack) };
    let seen = match flow::read(frame, at, &header, Direction::Decap) {
        Ok(seen) => seen,
        Err(no_flow) => return no(reason(no_flow)),
    };
    let Seen { flow, control } = seen;
    match control {
        Control::None => {}
        Control::Accepts => {
            let tag = flow.tag(settings::secret());
            return Lookup::Miss { reason: Reason::DecapControlToStack, tag };
        }
        Control::Other => return no(Reason::DecapControlToStack),
    }
    let reason = match lease::lookup_apart(&flow, now, slot) {
        Ok(hit) if hit.node == node => return Lookup::Hit(hit),
        Ok(_) | Err(Miss::Missing) => Reason::DecapNoLeaseToStack,
        Err(Miss::Expired) => Reason::DecapLeaseExpiredToStack,
        Err(Miss::Outdated) => Reason::DecapLeaseOutdatedToStack,
    };
    Lookup::Miss { reason, tag: flow.tag(settings::secret()) }
}

/// Gives a decapsulated answer the source of the Service that was asked, if its lease translates; the
/// reason to count.
///
/// # Errors
/// The reason for which it goes to the stack, as it was.
#[inline(always)]
pub fn translate(ctx: &TcContext, hit: &Hit) -> Result<Reason, Reason> {
    if hit.translation.is_none() {
        return Ok(Reason::DecapToPod);
    }
    match service::translate(ctx, ETHERNET, Direction::Decap, &hit.translation) {
        Ok(()) => Ok(Reason::DecapServiceToPod),
        Err(_) => Err(Reason::DecapCannotTranslateToStack),
    }
}
