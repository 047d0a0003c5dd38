//! What a pod's packet looked like in front of netfilter, for the hook behind it.
//!
//! Packets from the wire leave no note but their tag: senders there could look for ports whose tag is
//! another flow's and take its place.

use aya_ebpf::programs::TcContext;
use dataplane_common::{Arrival, Flow, IfIndex};

use crate::{flow::Control, maps, settings, skb};

/// Leaves the flow's tag in a packet that goes to the stack, and notes what the tag stands for.
#[inline(always)]
pub fn note(ctx: &TcContext, flow: &Flow) {
    let tag = flow.tag(settings::secret());
    skb::set_flow_tag(ctx, tag);
    if settings::are_services_leased() {
        remember(tag, flow, skb::ifindex(ctx));
    }
}

/// Of a packet that begins or ends a connection: it ends the leases of the flow as which it came, and
/// only the one that accepts a connection asks for another.
#[inline(always)]
pub fn note_control(ctx: &TcContext, flow: &Flow, control: Control) {
    if control == Control::Accepts || settings::are_services_leased() {
        note(ctx, flow);
    }
}

/// Returns as what a packet with this tag came by `interface`. Nothing if another packet has since taken
/// the tag's place.
#[inline(always)]
pub fn of(tag: u16, interface: IfIndex) -> Option<Flow> {
    if tag == 0 || !settings::are_services_leased() {
        return None;
    }
    let seen = maps::seen(tag)?;
    // Once: another CPU may write it between two reads.
    let flow = maps::read_last(&seen.flow);
    let is_from_there = maps::read_last(&seen.interface) == interface;
    (is_from_there && flow.tag(settings::secret()) == tag).then_some(flow)
}

/// Writes only what differs: the packets of a flow that is not leased all bear the same tag, and may
/// be on several CPUs.
#[inline(always)]
fn remember(tag: u16, flow: &Flow, interface: IfIndex) {
    let Some(seen) = maps::seen(tag) else { return };
    let arrival = Arrival { flow: *flow, interface, reserved: 0 };
    if *seen != arrival {
        *seen = arrival;
    }
}
