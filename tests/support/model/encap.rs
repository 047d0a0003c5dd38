//! Pod or stack → wire.

use std::net::Ipv4Addr;

use dataplane_common::{Direction, Flow, Lease, Node, Reason, Route, Translation};
use etherparse::{IpNumber, Ipv4Header};

use super::{
    Model, No, Prediction, Sent,
    ip::{Control, Ip, NoFlow, set, translate},
    leases::Settled,
};
use crate::{
    packet::{ETHERNET, IPV4, Mac},
    prog::Context,
    world::{HOST_MAC, POD_IF, SECRET, arrival},
};

impl Model {
    pub(super) fn encap(
        &mut self,
        pod: bool,
        frame: &[u8],
        context: &Context,
        prediction: &mut Prediction,
    ) -> Result<Sent, No> {
        // One check, two names, two verdicts.
        let no = |at_pod, at_host| if pod { No::Pass(at_pod) } else { No::Drop(at_host) };
        let leased = pod && self.is_verified();
        if leased {
            prediction.tag = 0;
        }
        let ip = Ip(&frame[ETHERNET..]);
        if frame[12..14] != [0x08, 0x00] {
            return Err(no(Reason::PodNotIpv4, Reason::HostNotIpv4));
        }
        if !ip.is_sane() || ip.total() < ip.header() || ip.total() > ip.0.len() {
            return Err(no(Reason::PodBadHeader, Reason::HostBadHeader));
        }
        let tcp = ip.protocol() == 6 && !ip.is_fragment();
        if pod && tcp && ip.total() < ip.header() + 14 {
            return Err(No::Pass(Reason::PodTruncated));
        }
        if pod && frame[..6] != HOST_MAC {
            return Err(No::Pass(Reason::PodNotForHost));
        }
        let mut translation = Translation::NONE;
        let (address, node) = if leased {
            let lease = self.leased_encap(ip, prediction).map_err(No::Pass)?;
            translation = lease.translation;
            (lease.node.into(), Node { hop: lease.hop, mtu: lease.mtu })
        } else {
            let owner = self.endpoint(ip.source()).map(|endpoint| endpoint.hop.ifindex.0);
            if pod && owner != Some(POD_IF) {
                return Err(No::Pass(Reason::PodForgedSource));
            }
            let elsewhere = |route: &Route| route.flags & !Route::DIRECT == 0;
            let route = self.route(ip.destination()).filter(elsewhere);
            let route = route.ok_or_else(|| no(Reason::PodNoRoute, Reason::HostNoRoute))?;
            if pod && route.flags & Route::DIRECT != 0 {
                return Err(No::Pass(Reason::PodDirect));
            }
            let address = route.node.into();
            let node = self
                .node(address)
                .filter(|node| !node.hop.ifindex.is_none())
                .ok_or_else(|| no(Reason::PodNodeUnreachable, Reason::HostNodeUnreachable))?;
            (address, node)
        };
        // A pod's packet has our hop ahead of it, the stack's has it behind.
        let ttl = ip.ttl().saturating_sub(u8::from(pod));
        if ttl == 0 {
            return Err(no(Reason::PodTtlExpired, Reason::HostTtlExpired));
        }
        if ip.total() + IPV4 > node.mtu.0 as usize {
            return Err(no(Reason::PodTooBig, Reason::HostTooBig));
        }
        if pod && ip.header() > IPV4 {
            return Err(No::Pass(Reason::PodOptions));
        }
        if pod && ip.is_fragment() {
            return Err(No::Pass(Reason::PodFragment));
        }
        if pod && !ip.checks() {
            return Err(No::Pass(Reason::PodBadChecksum));
        }
        if pod && tcp && ip.0[ip.header() + 13] & 0b111 != 0 {
            return Err(No::Pass(Reason::PodConnectionControl));
        }
        let reason = if pod && !translation.is_none() {
            Reason::PodServiceEncapsulated
        } else if pod {
            Reason::PodEncapsulated
        } else if self.is_verified() {
            self.settle_encap(ip, (address, node), context, prediction)
        } else {
            Reason::HostEncapsulated
        };
        if leased && let Some(flow) = &prediction.flow {
            self.use_lease(flow, ip.total());
        }

        let mut outer = Ipv4Header::new(
            ip.total() as u16,
            ttl,
            IpNumber::IPV4,
            Ipv4Addr::from(self.settings.node).octets(),
            Ipv4Addr::octets(&address),
        )
        .expect("an MTU is less than 64 KiB");
        outer.dont_fragment = true;
        outer.ecn = [
            etherparse::IpEcn::NotEct,
            etherparse::IpEcn::Ect1,
            etherparse::IpEcn::Ect0,
            etherparse::IpEcn::CongestionExperienced,
        ][usize::from(ip.0[1] & 3)];
        outer.header_checksum = outer.calc_header_checksum();
        let mut inner = ip.0[..ip.total()].to_vec();
        if pod {
            set(&mut inner, 8, ttl);
        }
        if !translation.is_none() {
            translate(&mut inner, 16, translation);
        }
        let macs = if node.hop.destination.is_known() {
            [Mac::from(node.hop.destination), Mac::from(node.hop.source)].concat()
        } else {
            frame[..12].to_vec()
        };
        let packet = [&macs, &frame[12..14], &outer.to_bytes(), &inner].concat();
        Ok(Sent { reason, packet, node: address, bytes: ip.total() })
    }

    /// Who gets it and how, as a lease says, or why none does.
    fn leased_encap(&mut self, ip: Ip, prediction: &mut Prediction) -> Result<Lease, Reason> {
        let (flow, control) = ip.flow(Direction::Encap).map_err(|no_flow| match no_flow {
            NoFlow::Options => Reason::PodOptions,
            NoFlow::Fragment => Reason::PodFragment,
            NoFlow::NoPorts => Reason::PodNoPorts,
        })?;
        if control != Control::None {
            if control == Control::Accepts || self.settings.service_mark != 0 {
                self.note(&flow, prediction);
            }
            return Err(Reason::PodConnectionControl);
        }
        let names = [Reason::PodNoLease, Reason::PodLeaseExpired, Reason::PodLeaseOutdated];
        let lease = match self.good_lease(&flow, names) {
            Ok(lease) => lease,
            Err(reason) => {
                self.note(&flow, prediction);
                return Err(reason);
            }
        };
        if lease.endpoint.0 != POD_IF {
            return Err(Reason::PodForgedSource);
        }
        prediction.flow = Some(flow);
        Ok(lease)
    }

    /// The packet takes a tag along, under which it is noted as what it came.
    fn note(&mut self, flow: &Flow, prediction: &mut Prediction) {
        prediction.tag = flow.tag(SECRET);
        if self.settings.service_mark != 0 {
            self.seen.insert(prediction.tag, arrival(flow, POD_IF));
        }
    }

    fn settle_encap(
        &mut self,
        ip: Ip,
        (address, way): (Ipv4Addr, Node),
        context: &Context,
        prediction: &mut Prediction,
    ) -> Reason {
        let Ok(seen) = ip.flow(Direction::Encap) else { return Reason::HostEncapsulated };
        prediction.flow = Some(seen.0);
        let claim = |model: &Self, _: &Flow| {
            model
                .endpoint(ip.source())
                .filter(|pod| pod.hop.ifindex.0 == context.ingress_ifindex)
                .map(|pod| (address, pod.hop.ifindex, way))
        };
        match self.settle(seen, context, claim) {
            Settled::Granted => Reason::HostLeaseGranted,
            Settled::ServiceGranted => Reason::HostServiceLeaseGranted,
            Settled::Leased => Reason::HostLeased,
            Settled::Unmarked => Reason::HostUnmarked,
            Settled::Unproven => Reason::HostUnproven,
            Settled::Control => Reason::HostConnectionControl,
        }
    }
}
