//! Wire → pod or stack.

use std::net::Ipv4Addr;

use dataplane_common::{Direction, Flow, Hop, Lease, Node, Reason, Route, Settings, Translation};

use super::{
    Model, No, Prediction, Sent,
    ip::{Control, Ip, NoFlow, set, translate},
};
use crate::{
    packet::{ETHERNET, IPV4, Mac},
    world::{HANDOVER_MAC, NIC_MAC, SECRET},
};

impl Model {
    pub(super) fn decap(
        &mut self,
        xdp: bool,
        frame: &[u8],
        prediction: &mut Prediction,
    ) -> Result<Sent, No> {
        let outer = Ip(&frame[ETHERNET..]);
        let pass = |wrong, reason| if wrong { Err(No::Pass(reason)) } else { Ok(()) };
        pass(frame[12..14] != [0x08, 0x00], Reason::DecapNotIpv4)?;
        pass(outer.protocol() != 4, Reason::DecapNotIpip)?;
        pass(!xdp && frame[..6] != NIC_MAC, Reason::DecapNotForHost)?;
        pass(!outer.is_sane(), Reason::DecapOuterBadHeader)?;
        pass(outer.header() != IPV4, Reason::DecapOuterOptions)?;
        pass(!outer.checks(), Reason::DecapOuterBadChecksum)?;
        pass(outer.is_fragment(), Reason::DecapOuterFragment)?;
        pass(outer.total() < IPV4 || outer.total() > outer.0.len(), Reason::DecapOuterBadLength)?;
        pass(
            outer.destination() != Ipv4Addr::from(self.settings.node),
            Reason::DecapOtherDestination,
        )?;
        // XDP asks for no lease: its checks are to hold for what GRO makes of it.
        let ask = self.is_verified() && !xdp && outer.0.len() >= 2 * IPV4;
        let leased = ask.then(|| self.leased_decap(Ip(&outer.0[IPV4..]), outer.source()));
        let vouched = matches!(leased, Some(Ok(_)));
        let mut is_protected = false;
        if !vouched {
            let Some(node) = self.node(outer.source()) else {
                return Err(No::Pass(Reason::DecapUnknownNode));
            };
            pass(xdp && frame[..6] != Mac::from(node.hop.source), Reason::DecapNotForHost)?;
            is_protected = node == Node::PROTECTED;
        }
        pass(outer.total() < 2 * IPV4, Reason::DecapInnerTruncated)?;
        let inner = Ip(&outer.0[IPV4..]);
        pass(!inner.is_sane(), Reason::DecapInnerBadHeader)?;
        let carried = outer.total() - IPV4;
        pass(
            inner.total() < inner.header() || inner.total() > carried,
            Reason::DecapInnerBadLength,
        )?;
        pass(inner.header() == IPV4 && !inner.checks(), Reason::DecapInnerBadChecksum)?;
        pass(matches!(inner.protocol(), 4 | 41), Reason::DecapNestedTunnel)?;

        let lie = if vouched { None } else { self.lie(outer.source(), inner.source())? };
        if let Some((drop, _)) = lie
            && self.settings.spoof == Settings::SPOOF_DROP
        {
            return Err(No::Drop(drop));
        }
        pass(is_protected, Reason::DecapSourceUnknown)?;
        let (outside, inside) = (outer.0[1] & 3, inner.0[1] & 3);
        // RFC 6040 §4.2 in words: CE and ECT(1) outside count, if inside is capable.
        let ecn = match (inside, outside) {
            (0, 3) => return Err(No::Drop(Reason::DecapEcnViolation)),
            (0, _) => 0,
            (_, 3) => 3,
            (2, 1) => 1,
            (inside, _) => inside,
        };
        if inner.ttl() == 0 {
            return Err(No::Drop(Reason::DecapInnerTtlZero));
        }
        // What XDP does not drop for good it does not touch either.
        pass(xdp && lie.is_some(), Reason::DecapSourceUnknown)?;

        let mut ip = inner.0.to_vec();
        if ecn != inside {
            set(&mut ip, 1, inner.0[1] & !3 | ecn);
        }
        let mut macs = frame[..12].to_vec();
        let reason = if xdp {
            macs[6..].copy_from_slice(&HANDOVER_MAC);
            Reason::XdpUnwrapped
        } else {
            // A lie takes no tag along, nor does what has a lease and cannot use it.
            let (pod, tag) = match &leased {
                None => (self.pod(inner), 0),
                Some(Err((reason, tag))) => (Err(*reason), *tag),
                Some(Ok(_)) if inner.ttl() == 1 => (Err(Reason::DecapTtlToStack), 0),
                Some(Ok((_, Lease { hop, .. }))) => (Ok(*hop), 0),
            };
            match (lie, pod) {
                (None, Ok(pod)) => {
                    if let Some(Ok((flow, _))) = &leased {
                        prediction.flow = Some(*flow);
                        self.use_lease(flow, inner.total());
                    }
                    let translation = match &leased {
                        Some(Ok((_, lease))) => lease.translation,
                        _ => Translation::NONE,
                    };
                    set(&mut ip, 8, inner.ttl() - 1);
                    macs = [Mac::from(pod.destination), Mac::from(pod.source)].concat();
                    if translation.is_none() {
                        Reason::DecapToPod
                    } else {
                        translate(&mut ip, 12, translation);
                        Reason::DecapServiceToPod
                    }
                }
                (lie, pod) => {
                    if self.is_verified() {
                        prediction.tag = if lie.is_some() { 0 } else { tag };
                    }
                    macs[..6].copy_from_slice(&Mac::from(self.settings.tunnel_mac));
                    lie.map(|(_, to_stack)| to_stack).or(pod.err()).expect("a reason not to")
                }
            }
        };
        let packet = [&macs, &frame[12..14], &ip].concat();
        Ok(Sent { reason, packet, node: outer.source(), bytes: inner.total() })
    }

    /// The lease of a packet from `node`, and its flow, or why there is none and
    /// the tag to take along.
    fn leased_decap(&self, inner: Ip, node: Ipv4Addr) -> Result<(Flow, Lease), (Reason, u16)> {
        let (flow, control) = inner.flow(Direction::Decap).map_err(|no_flow| match no_flow {
            NoFlow::Options => (Reason::DecapOptionsToStack, 0),
            NoFlow::Fragment => (Reason::DecapFragmentToStack, 0),
            NoFlow::NoPorts => (Reason::DecapNoPortsToStack, 0),
        })?;
        if control != Control::None {
            let tag = if control == Control::Accepts { flow.tag(SECRET) } else { 0 };
            return Err((Reason::DecapControlToStack, tag));
        }
        let names = [
            Reason::DecapNoLeaseToStack,
            Reason::DecapLeaseExpiredToStack,
            Reason::DecapLeaseOutdatedToStack,
        ];
        let tag = flow.tag(SECRET);
        let lease = self.good_lease(&flow, names).map_err(|reason| (reason, tag))?;
        if Ipv4Addr::from(lease.node) != node {
            return Err((Reason::DecapNoLeaseToStack, tag));
        }
        Ok((flow, lease))
    }

    /// What is wrong with the inner source: its names if dropped and if not.
    fn lie(&self, node: Ipv4Addr, source: Ipv4Addr) -> Result<Option<(Reason, Reason)>, No> {
        let [first, ..] = source.octets();
        if first == 0 || first == 127 || first >= 224 {
            return Ok(Some((Reason::DecapMartianSource, Reason::DecapMartianToStack)));
        }
        match self.route(source) {
            Some(route) if route.flags & Route::LOCAL != 0 => {
                Ok(Some((Reason::DecapOwnSource, Reason::DecapOwnToStack)))
            }
            _ if source == node => Ok(None),
            Some(route) if Ipv4Addr::from(route.node) == node => Ok(None),
            Some(_) => Ok(Some((Reason::DecapForgedSource, Reason::DecapForgedToStack))),
            None => Err(No::Pass(Reason::DecapSourceUnknown)),
        }
    }

    /// The MACs of the pod that takes it straight, or why none does.
    fn pod(&self, inner: Ip) -> Result<Hop, Reason> {
        if self.settings.fastpath == Settings::OFF {
            return Err(Reason::DecapToStack);
        }
        if inner.ttl() == 1 {
            return Err(Reason::DecapTtlToStack);
        }
        if inner.header() > IPV4 {
            return Err(Reason::DecapOptionsToStack);
        }
        if inner.is_fragment() {
            return Err(Reason::DecapFragmentToStack);
        }
        let endpoint = self.endpoint(inner.destination());
        endpoint
            .filter(|endpoint| endpoint.hop.destination.is_known())
            .map(|endpoint| endpoint.hop)
            .ok_or(Reason::DecapNoEndpointToStack)
    }
}
