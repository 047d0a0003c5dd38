//! Leases: found, used, granted and ended.

use std::net::Ipv4Addr;

use dataplane_common::{
    Arrival, Direction, EpochSlots, Epochs, Flow, IfIndex, Lease, Node, Translation, epochs::SLOTS,
};

use super::{Model, ip::Control};
use crate::{
    prog::Context,
    world::{LATER, REVOKED, SECRET, node_index},
};

/// What a hook behind netfilter does about a lease.
pub enum Settled {
    Granted,
    ServiceGranted,
    Leased,
    Unmarked,
    Unproven,
    Control,
}

impl Model {
    /// All leases; one that a program granted ends [`LATER`].
    #[must_use]
    pub fn leases(&self) -> &[(Flow, Lease)] {
        &self.leases
    }

    /// These leases and no others.
    pub fn set_leases(&mut self, leases: &[(Flow, Lease)]) {
        self.leases = leases.to_vec();
    }

    /// The lease of one flow, good or not.
    #[must_use]
    pub fn lease(&self, flow: &Flow) -> Option<Lease> {
        self.leases.iter().find(|(of, _)| of == flow).map(|(_, lease)| *lease)
    }

    /// The lease of a flow if it is good, or the names of what is wrong with it.
    pub(super) fn good_lease<T>(
        &self,
        flow: &Flow,
        [none, expired, outdated]: [T; 3],
    ) -> Result<Lease, T> {
        match self.lease(flow) {
            Some(lease) if lease.flow == *flow => {
                if lease.epoch != self.epoch(lease.slots) {
                    Err(outdated)
                } else if lease.expires == LATER {
                    Ok(lease)
                } else {
                    Err(expired)
                }
            }
            _ => Err(none),
        }
    }

    /// What a good lease bears that has these slots, whatever they are.
    fn epoch(&self, slots: EpochSlots) -> u32 {
        let Epochs { all, remote, local } = &self.epochs;
        all + remote[usize::from(slots.remote) % SLOTS] + local[usize::from(slots.local) % SLOTS]
    }

    pub(super) fn use_lease(&mut self, flow: &Flow, bytes: usize) {
        for (_, lease) in self.leases.iter_mut().filter(|(of, _)| of == flow) {
            lease.packets += 1;
            lease.bytes += bytes as u64;
        }
    }

    fn leases_services(&self) -> bool {
        self.settings.service_mark != 0
    }

    /// Ends the leases of a flow and of its answers. One that translates stays in its place, and its
    /// counterpart, which is under a tuple that the flow does not show, ends with it.
    fn revoke(&mut self, flow: &Flow) {
        for flow in [*flow, flow.reverse()] {
            let Some(lease) = self.lease(&flow) else { continue };
            self.end(&flow);
            if !lease.translation.is_none() {
                self.end(&remote(&flow, lease.translation).reverse());
            }
        }
    }

    fn end(&mut self, flow: &Flow) {
        let translates = self.lease(flow).is_some_and(|lease| !lease.translation.is_none());
        if !translates {
            self.leases.retain(|(of, _)| of != flow);
            return;
        }
        for (of, lease) in &mut self.leases {
            if of == flow && lease.flow == *flow && !lease.is_revoked() {
                lease.expires = REVOKED;
            }
        }
    }

    /// As what a packet with this tag came, if that is noted.
    fn came_as(&self, tag: u16) -> Option<Arrival> {
        let noted = self.seen.get(&tag).filter(|_| tag != 0 && self.leases_services())?;
        (noted.flow.tag(SECRET) == tag).then_some(*noted)
    }

    fn revoke_all(&mut self, flow: &Flow, context: &Context) {
        let came = self.came_as(context.tag);
        let came = came.filter(|came| came.interface.0 == context.ingress_ifindex);
        self.revoke(flow);
        if let Some(came) = came {
            self.revoke(&came.flow);
        }
    }

    /// Under what a packet's lease is that netfilter has translated for a Service, and to what it
    /// translates; or whether what there is leads elsewhere.
    fn of_service(&self, after: &Flow, context: &Context) -> Result<(Flow, Translation), bool> {
        match after.direction() {
            Direction::Encap => {
                let came = self.came_as(context.tag).ok_or(false)?;
                if came.interface.0 != context.ingress_ifindex {
                    return Err(false);
                }
                let of_sender = |flow: &Flow| (flow.source, flow.source_port, flow.protocol);
                let is_same = of_sender(&came.flow) == of_sender(after)
                    && came.flow.direction == after.direction;
                if came.flow == *after || !is_same {
                    return Err(true);
                }
                let to = Translation::to(after.destination, after.destination_port);
                Ok((came.flow, to))
            }
            Direction::Decap => {
                let asked = after.reverse();
                let lease = self.lease(&asked).ok_or(false)?;
                if lease.flow != asked || lease.is_revoked() || lease.translation.is_none() {
                    return Err(false);
                }
                let came = remote(&asked, lease.translation).reverse();
                if came.tag(SECRET) != context.tag {
                    return Err(true);
                }
                Ok((came, Translation::to(after.source, after.source_port)))
            }
        }
    }

    /// What becomes of the lease behind netfilter. `claim`: node, interface and way of a lease
    /// under a flow.
    pub(super) fn settle(
        &mut self,
        (after, control): (Flow, Control),
        context: &Context,
        claim: impl Fn(&Self, &Flow) -> Option<(Ipv4Addr, IfIndex, Node)>,
    ) -> Settled {
        let tag = context.tag;
        if control != Control::None {
            self.revoke_all(&after, context);
            let is_plain = context.mark & self.settings.mark != 0;
            if control != Control::Accepts || !is_plain || tag != after.tag(SECRET) {
                return Settled::Control;
            }
        }
        if context.mark & self.settings.mark != 0 {
            if tag != 0 && tag != after.tag(SECRET) {
                self.revoke_all(&after, context);
                return Settled::Unproven;
            }
            return self.grant_lease(after, Translation::NONE, tag != 0, claim);
        }
        if context.mark & self.settings.service_mark == 0 {
            self.revoke_all(&after, context);
            return Settled::Unmarked;
        }
        if tag == 0 {
            return Settled::Unproven;
        }
        match self.of_service(&after, context) {
            Ok((flow, translation)) => match self.grant_lease(flow, translation, true, claim) {
                Settled::Granted => Settled::ServiceGranted,
                other => other,
            },
            Err(leads_elsewhere) => {
                if leads_elsewhere {
                    self.revoke_all(&after, context);
                }
                Settled::Unproven
            }
        }
    }

    fn grant_lease(
        &mut self,
        flow: Flow,
        translation: Translation,
        is_proven: bool,
        claim: impl Fn(&Self, &Flow) -> Option<(Ipv4Addr, IfIndex, Node)>,
    ) -> Settled {
        let own = self.lease(&flow).filter(|lease| lease.flow == flow);
        if self.good_lease(&flow, [(); 3]).is_ok() {
            if own.is_some_and(|lease| lease.translation == translation) {
                return Settled::Leased;
            }
            self.revoke(&flow);
            return Settled::Unproven;
        }
        if !is_proven || own.is_some_and(|lease| lease.is_revoked()) {
            return Settled::Unproven;
        }
        let Some((node, endpoint, way)) = claim(self, &flow) else { return Settled::Unproven };
        let old = own.unwrap_or_default();
        let slots = EpochSlots::of_lease(&flow, &translation);
        let lease = Lease {
            flow,
            slots,
            epoch: self.epoch(slots),
            expires: LATER,
            packets: old.packets,
            bytes: old.bytes,
            node: node.into(),
            endpoint,
            hop: way.hop,
            mtu: way.mtu,
            translation,
            index: node_index(node),
        };
        self.leases.retain(|(of, _)| *of != flow);
        self.leases.push((flow, lease));
        Settled::Granted
    }
}

/// The flow, with the remote end that a translation gives it.
fn remote(flow: &Flow, to: Translation) -> Flow {
    let mut flow = *flow;
    if flow.direction() == Direction::Encap {
        (flow.destination, flow.destination_port) = (to.address, to.port);
    } else {
        (flow.source, flow.source_port) = (to.address, to.port);
    }
    flow
}
