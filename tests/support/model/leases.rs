//! Leases: found, used, granted and ended.

use std::net::Ipv4Addr;

use dataplane_common::{Flow, IfIndex, Lease, Node};

use super::Model;
use crate::{
    prog::Context,
    world::{EPOCH, LATER, SECRET},
};

/// What a hook behind netfilter does about a lease.
pub enum Settled {
    Granted,
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
            Some(lease) if lease.destination == flow.destination => {
                if lease.epoch != EPOCH {
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

    pub(super) fn use_lease(&mut self, flow: &Flow, bytes: usize) {
        for (_, lease) in self.leases.iter_mut().filter(|(of, _)| of == flow) {
            lease.packets += 1;
            lease.bytes += bytes as u64;
        }
    }

    fn revoke(&mut self, flow: &Flow) {
        self.leases.retain(|(of, _)| *of != *flow && *of != flow.reverse());
    }

    /// What becomes of the lease behind netfilter. `claim`: node, interface and way.
    pub(super) fn settle(
        &mut self,
        (flow, is_control): (Flow, bool),
        context: &Context,
        claim: Option<(Ipv4Addr, IfIndex, Node)>,
    ) -> Settled {
        let right = flow.tag(SECRET);
        let verdict = if is_control {
            Settled::Control
        } else if context.mark & self.settings.mark == 0 {
            Settled::Unmarked
        } else if context.tag != 0 && context.tag != right {
            Settled::Unproven
        } else if self.good_lease(&flow, [(); 3]).is_ok() {
            return Settled::Leased;
        } else if context.tag == 0 {
            return Settled::Unproven;
        } else {
            let Some((node, endpoint, way)) = claim else { return Settled::Unproven };
            let old = self.lease(&flow).unwrap_or_default();
            let lease = Lease {
                destination: flow.destination,
                epoch: EPOCH,
                expires: LATER,
                packets: old.packets,
                bytes: old.bytes,
                node: node.into(),
                endpoint,
                hop: way.hop,
                mtu: way.mtu,
                reserved: 0,
            };
            self.leases.retain(|(of, _)| *of != flow);
            self.leases.push((flow, lease));
            return Settled::Granted;
        };
        self.revoke(&flow);
        verdict
    }
}
