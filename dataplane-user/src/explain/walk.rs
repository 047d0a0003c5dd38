//! From hook to hook, as the packet would go.

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::{Flow, Hop, IfIndex, Ipv4Be, Mac, Program, Verdict};

use super::{
    copies::{Context, Copies},
    facts,
    packet::{self, ETHERNET, Frame, TTL},
    question::Pod,
    report::{Outcome, Step, Way},
    stack::{Forwarded, Stack},
};
use crate::{
    bpf::{AttachedLink, Attachment, Maps},
    kernel::{Kernel, interface_name},
};

/// What is needed on the way.
pub struct Walk<'a> {
    /// The live maps.
    pub maps: &'a Maps,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Of the attached programs.
    pub copies: Copies,
    /// Where which program is.
    pub attached: &'a [(Attachment, AttachedLink)],
    /// The local pod.
    pub pod: Pod,
}

impl Walk<'_> {
    /// What the pod sends; with the flow as it leaves, which netfilter may have translated.
    pub async fn outward(&mut self, flow: &Flow, is_answer: bool) -> Result<(Way, Flow)> {
        let name = packet::name(flow);
        let hop = self.pod.endpoint.hop;
        let source = Ipv4Addr::from(flow.source);
        let destination = Ipv4Addr::from(flow.destination);
        let interface = interface_name(hop.ifindex);
        let mut steps = Vec::new();
        if self.is_on(Program::EncapPod, hop.ifindex) {
            let sent = packet::build(flow, TTL, is_answer);
            let macs = Frame { source: hop.destination, destination: hop.source };
            let context = Context { interface: hop.ifindex, came_by: hop.ifindex };
            let (step, _) = self.run(Program::EncapPod, &packet::frame(&sent, macs), context)?;
            let facts =
                [facts::source(self.maps, source, &interface), facts::lease(self.maps, flow)];
            let is_over = step.outcome != Outcome::Passed;
            steps.push(step.with(facts).with(facts::route(self.maps, destination)));
            if is_over {
                return Ok((Way::of(name, steps), *flow));
            }
        }
        let routed = self.stack().forward(flow, hop.ifindex, is_answer).await?;
        let Forwarded { mut step, oif, flow: left } = routed;
        let (was, destination) = (destination, Ipv4Addr::from(left.destination));
        if destination != was {
            let service =
                format!("netfilter leads it to {}, if it is a new connection", left.ends().1);
            step = step.with([service]);
        }
        let is_tried = step.rules.is_some();
        steps.push(step);
        let tunnel = self.copies.settings().tunnel_ifindex;
        if oif == Some(tunnel) {
            steps.push(self.at_tunnel(&left, is_answer)?);
        } else if let Some(oif) = oif
            && self.is_for_node(destination)
        {
            let fact = format!(
                "tunless has a route to {destination} over {}, which the kernel does not take: \
                 `tunless routes get {destination}` shows why",
                interface_name(tunnel)
            );
            let past = interface_name(oif);
            let text = "the packet leaves plain, past tunless".to_owned();
            steps.push(Step::kernel(&past, Outcome::Unknown, text).with([fact]));
        } else if oif.is_some() && !is_tried && self.has_no_route(destination) {
            let text =
                "netfilter may translate it for a Service before the route is chosen, and no \
                        lease tells to which pod"
                    .to_owned();
            steps.push(Step::kernel(&interface, Outcome::Unknown, text));
        }
        Ok((Way::of(name, steps), left))
    }

    /// At the tunnel device.
    fn at_tunnel(&mut self, flow: &Flow, is_answer: bool) -> Result<Step> {
        let settings = *self.copies.settings();
        let (tunnel, destination) = (settings.tunnel_ifindex, Ipv4Addr::from(flow.destination));
        let interface = interface_name(tunnel);
        let facts = facts::route(self.maps, destination);
        let is_tunl0 = settings.tunnel_header == 0;
        let program = Program::EncapHost.as_str();
        if !self.is_on(Program::EncapHost, tunnel) {
            let (outcome, text) = match is_tunl0 {
                true => (Outcome::Passed, "is not attached; tunl0 encapsulates the packet itself"),
                false => (Outcome::Dropped, "is not attached; what the stack sends there is lost"),
            };
            return Ok(Step::plain(program, &interface, outcome, text.to_owned()).with(facts));
        }
        if is_tunl0 {
            let text = "a test run cannot begin at tunl0, which has no link header; what the program \
                        does not take, tunl0 encapsulates itself";
            let step = Step::plain(program, &interface, Outcome::Unknown, text.to_owned());
            return Ok(step.with(facts));
        }
        let packet = packet::build(flow, TTL - 1, is_answer);
        let macs = Frame { source: settings.tunnel_mac, destination: settings.tunnel_mac };
        let context = Context { interface: tunnel, came_by: self.pod.endpoint.hop.ifindex };
        let (step, _) = self.run(Program::EncapHost, &packet::frame(&packet, macs), context)?;
        Ok(step.with(facts))
    }

    /// What a node sends to the pod.
    pub async fn inward(&mut self, flow: &Flow, node: Ipv4Addr, is_answer: bool) -> Result<Way> {
        let name = format!("{}, from node {node}", packet::name(flow));
        let settings = *self.copies.settings();
        let source = Ipv4Addr::from(flow.source);
        let Some(hop) = self.way_to(node) else {
            let text = format!("node {node} has no interface by which its packets would come");
            let step = Step::kernel("the underlay", Outcome::Unknown, text);
            return Ok(Way::of(name, vec![step.with([facts::node(self.maps, node)])]));
        };
        let underlay = interface_name(hop.ifindex);
        // Two hops behind the other pod.
        let inner = packet::build(flow, TTL - 1, is_answer);
        let wrapped = packet::encapsulate(&inner, node, settings.node.into(), TTL);
        let macs = Frame { source: hop.destination, destination: hop.source };
        let frame = packet::frame(&wrapped, macs);
        let context = Context { interface: hop.ifindex, came_by: hop.ifindex };
        let mut steps = Vec::new();
        if self.is_on(Program::DecapXdp, hop.ifindex) {
            let step = match self.run(Program::DecapXdp, &frame, context) {
                Ok((step, _)) => step,
                Err(error) => {
                    let text = format!("the kernel runs no copy of it here: {error:#}");
                    Step::plain(Program::DecapXdp.as_str(), &underlay, Outcome::Unknown, text)
                }
            };
            let is_over = step.outcome == Outcome::Dropped;
            steps.push(step);
            if is_over {
                return Ok(Way::of(name, steps));
            }
        }
        if !self.is_on(Program::DecapTc, hop.ifindex) {
            let program = Program::DecapTc.as_str();
            let text = "is not attached; the packet goes up with its outer header".to_owned();
            steps.push(Step::plain(program, &underlay, self.unwrapped_by_tunl0(), text));
            return Ok(Way::of(name, steps));
        }
        let (step, left) = self.run(Program::DecapTc, &frame, context)?;
        let belongs = match self.maps.route_to(source)? {
            Some((cidr, route)) => {
                format!("source: {source} is of {cidr}, node {}", Ipv4Addr::from(route.node))
            }
            None => format!("source: no route covers {source}"),
        };
        let step =
            step.with([belongs, facts::lease(self.maps, flow), facts::node(self.maps, node)]);
        let (outcome, reason) = (step.outcome, step.reason);
        steps.push(step);
        match outcome {
            Outcome::Passed => {
                let text = "gets the packet with its outer header on".to_owned();
                steps.push(Step::kernel(&underlay, self.unwrapped_by_tunl0(), text));
            }
            Outcome::Forwarded if reason.is_some_and(|reason| reason.ends_with("_to_stack")) => {
                self.deliver(flow, is_answer, &left, &mut steps).await?;
            }
            _ => {}
        }
        Ok(Way::of(name, steps))
    }

    /// From the tunnel device through the stack into the pod.
    async fn deliver(
        &mut self,
        flow: &Flow,
        is_answer: bool,
        unwrapped: &[u8],
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let tunnel = self.copies.settings().tunnel_ifindex;
        let Forwarded { step, oif, .. } = self.stack().forward(flow, tunnel, is_answer).await?;
        steps.push(step);
        let Some(oif) = oif.filter(|oif| self.is_on(Program::GrantDecap, *oif)) else {
            return Ok(());
        };
        let hop = self.pod.endpoint.hop;
        let macs = Frame { source: hop.source, destination: hop.destination };
        let packet = unwrapped.get(ETHERNET..).unwrap_or_default();
        let context = Context { interface: oif, came_by: tunnel };
        let (step, _) = self.run(Program::GrantDecap, &packet::frame(packet, macs), context)?;
        steps.push(step);
        Ok(())
    }

    fn stack(&self) -> Stack<'_> {
        let settings = self.copies.settings();
        Stack { kernel: self.kernel, node: settings.node.into(), tunnel: settings.tunnel_ifindex }
    }

    /// Runs a program's copy.
    fn run(&mut self, program: Program, frame: &[u8], context: Context) -> Result<(Step, Vec<u8>)> {
        let interface = interface_name(context.interface);
        let ran = self.copies.run(program, frame, context)?;
        let mut step = match ran.reason {
            Some(reason) => Step::counted(program.as_str(), &interface, reason),
            None => {
                let text = "leaves it to the next program".to_owned();
                Step::plain(program.as_str(), &interface, Outcome::Passed, text)
            }
        };
        if ran.reason.is_some_and(|reason| reason.verdict() == Verdict::Forwarded) {
            step.leaves = packet::headers(&ran.frame);
        }
        Ok((step, ran.frame))
    }

    fn is_on(&self, program: Program, ifindex: IfIndex) -> bool {
        let wanted = Attachment { program, ifindex };
        self.attached.iter().any(|(at, _)| *at == wanted)
    }

    fn is_for_node(&self, destination: Ipv4Addr) -> bool {
        let route = self.maps.route_to(destination).ok().flatten();
        route.is_some_and(|(_, route)| route.is_destination() && !route.is_direct())
    }

    /// Whether no route of ours covers it.
    fn has_no_route(&self, destination: Ipv4Addr) -> bool {
        self.maps.route_to(destination).ok().flatten().is_none()
    }

    fn way_to(&self, node: Ipv4Addr) -> Option<Hop> {
        let (node, _) = self.maps.nodes.get(Ipv4Be::from(node)).ok()?;
        let mut hop = (!node.hop.ifindex.is_none()).then_some(node.hop)?;
        if !hop.destination.is_known() {
            // Some other machine's: no program asks.
            hop.destination = Mac::from([2, 0, 0, 0, 0, 1]);
        }
        Some(hop)
    }

    /// What becomes of a packet that we leave encapsulated.
    fn unwrapped_by_tunl0(&self) -> Outcome {
        match self.copies.settings().tunnel_header {
            0 => Outcome::Unknown,
            _ => Outcome::Dropped,
        }
    }
}
