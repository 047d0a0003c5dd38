//! Stack → pod: leases for what netfilter let in.

use dataplane_common::{Direction, Flow, Mtu, Node, Reason, Route};

use super::{Model, Prediction, ip::Ip, leases::Settled};
use crate::{
    packet::ETHERNET,
    prog::Context,
    world::{POD_IF, TUNNEL_IF},
};

impl Model {
    pub(super) fn grant(
        &mut self,
        frame: &[u8],
        context: &Context,
        prediction: &mut Prediction,
    ) -> Reason {
        let ip = Ip(&frame[ETHERNET..]);
        prediction.ran.mark = context.mark & !(self.settings.mark | self.settings.service_mark);
        let seen = match ip.flow(Direction::Decap) {
            Ok(seen) if frame[12..14] == [0x08, 0x00] && ip.is_sane() => seen,
            _ => return Reason::GrantNoFlow,
        };
        prediction.flow = Some(seen.0);
        let claim = |model: &Self, flow: &Flow| {
            let pod = model.endpoint(ip.destination())?;
            let route = model.route(flow.source.into())?;
            let theirs = route.flags & Route::LOCAL == 0 && model.node(route.node.into()).is_some();
            let way = Node { hop: pod.hop, mtu: Mtu(0) };
            (context.ingress_ifindex == TUNNEL_IF
                && pod.hop.ifindex.0 == POD_IF
                && pod.hop.destination.is_known()
                && theirs)
                .then_some((route.node.into(), pod.hop.ifindex, way))
        };
        match self.settle(seen, context, claim) {
            Settled::Granted => Reason::GrantGiven,
            Settled::ServiceGranted => Reason::GrantServiceGiven,
            Settled::Leased => Reason::GrantLeased,
            Settled::Unmarked => Reason::GrantUnmarked,
            Settled::Unproven => Reason::GrantUnproven,
            Settled::Control => Reason::GrantConnectionControl,
        }
    }
}
