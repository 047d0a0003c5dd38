//! What the kernel's stack does with a packet between two hooks of ours: its route, and rules of netfilter.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use dataplane_common::{Flow, IfIndex};

use super::{
    packet::{self, TTL},
    rehearsal::{self, Fate, Rehearsed, Scenery},
    report::{Outcome, Step},
};
use crate::kernel::{Forward, Kernel, Refused, interface_name};

/// The stack of this node.
#[derive(Clone, Copy)]
pub struct Stack<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The node's address.
    pub node: Ipv4Addr,
    /// The tunnel device.
    pub tunnel: IfIndex,
}

/// What came of a packet that is forwarded.
pub struct Forwarded {
    /// In words.
    pub step: Step,
    /// By which interface it leaves; none if it does not.
    pub oif: Option<IfIndex>,
    /// The flow as it leaves: conntrack may translate it.
    pub flow: Flow,
}

type Routed = Result<Forward, Refused>;

impl Stack<'_> {
    /// Forwards the packet of a flow. Rules are asked about the first packet of a flow alone: they let an
    /// answer pass by the connection that it belongs to, which `is_answer` says it does.
    ///
    /// # Errors
    /// If the kernel cannot be asked for the route.
    pub async fn forward(
        &self,
        flow: &Flow,
        came_by: IfIndex,
        is_answer: bool,
    ) -> Result<Forwarded> {
        let interface = interface_name(came_by);
        let mut flow = *flow;
        let source = flow.source;
        let mut routed = self.route(&flow, flow.destination.into(), came_by).await?;
        let is_for_host = routed.as_ref().is_ok_and(|routed| routed.is_for_host);
        let mut met = None;
        if !is_answer && !is_for_host {
            let mut rehearsed = self.rehearse(&flow, came_by, &routed).await;
            let mut left = as_it_left(&flow, &rehearsed);
            if left.destination != flow.destination {
                let again = self.route(&flow, left.destination.into(), came_by).await?;
                if self.leaves_by(&again) != self.leaves_by(&routed) {
                    // Rules ask by which interface it leaves.
                    rehearsed = self.rehearse(&flow, came_by, &again).await;
                    left = as_it_left(&flow, &rehearsed);
                }
                routed = self.route(&flow, left.destination.into(), came_by).await?;
            }
            (met, flow) = (Some(rehearsed), left);
        }
        let (step, oif) = in_words(&routed, &interface, flow.destination.into());
        let (step, is_over) = match met {
            None => (step, false),
            Some(Err(error)) => (step.not_asked(&error), false),
            Some(Ok(rehearsed)) => with_rules(step, &interface, rehearsed),
        };
        let step = match flow.source == source {
            true => step,
            false => step.with([format!("netfilter gives it the source {}", flow.ends().0)]),
        };
        Ok(Forwarded { step, oif: oif.filter(|_| !is_over), flow })
    }

    /// The way of the flow to `destination`, to which netfilter may have changed its own.
    async fn route(&self, flow: &Flow, destination: Ipv4Addr, came_by: IfIndex) -> Result<Routed> {
        self.kernel.forward(destination, flow.source.into(), came_by).await
    }

    /// The interface by which the packet leaves. An address without a route may be a Service's, and most pods
    /// behind a Service are on other nodes: the tunnel device.
    fn leaves_by(&self, routed: &Routed) -> IfIndex {
        match routed {
            Ok(routed) if !routed.is_for_host => routed.path.ifindex,
            _ => self.tunnel,
        }
    }

    async fn rehearse(&self, flow: &Flow, came_by: IfIndex, routed: &Routed) -> Result<Rehearsed> {
        let scenery = Scenery {
            came_by: interface_name(came_by),
            leaves_by: interface_name(self.leaves_by(routed)),
            source: flow.source.into(),
            node: self.node,
        };
        let packet = packet::first(flow, TTL);
        let task = tokio::task::spawn_blocking(move || rehearsal::rehearse(&scenery, &packet));
        task.await.context("the thread that tries the rules")?
    }
}

/// The flow as the rules made it.
fn as_it_left(flow: &Flow, rehearsed: &Result<Rehearsed>) -> Flow {
    match rehearsed {
        Ok(Rehearsed { fate: Fate::Left(from, to), .. }) => Flow {
            source: (*from.ip()).into(),
            source_port: from.port().to_be(),
            destination: (*to.ip()).into(),
            destination_port: to.port().to_be(),
            ..*flow
        },
        _ => *flow,
    }
}

fn in_words(routed: &Routed, interface: &str, destination: Ipv4Addr) -> (Step, Option<IfIndex>) {
    let routed = match routed {
        Ok(routed) => routed,
        Err(refused) => {
            return (Step::kernel(interface, Outcome::Dropped, refused.text()), None);
        }
    };
    if routed.is_for_host {
        let text = format!("{destination} is an address of this node: it takes the packet itself");
        return (Step::kernel(interface, Outcome::Passed, text), None);
    }
    let path = &routed.path;
    let via = match path.next_hop == destination {
        true => String::new(),
        false => format!(" via {}", path.next_hop),
    };
    let mtu = path.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    let text = format!("routes it dev {}{via}{mtu}", interface_name(path.ifindex));
    (Step::kernel(interface, Outcome::Passed, text), Some(path.ifindex))
}

/// The same with the rules that were met; true if they let nothing pass.
fn with_rules(step: Step, interface: &str, rehearsed: Rehearsed) -> (Step, bool) {
    let Rehearsed { rules, fate } = rehearsed;
    let last = rules.last().map(|it| format!("{} {}: {}", it.table, it.chain, it.rule));
    let last = last.unwrap_or_default();
    let (outcome, text) = match fate {
        Fate::Left(..) => return (step.met(rules), false),
        Fate::Dropped => (
            Outcome::Dropped,
            format!("a rule of netfilter drops the first packet of such a connection: {last}"),
        ),
        Fate::Queued => (
            Outcome::Unknown,
            format!("a rule gives it to a program in user space, which decides: {last}"),
        ),
        Fate::Lost => (
            Outcome::Unknown,
            "the rules were tried, and the packet did not come out, though none that it met \
             drops it"
                .to_owned(),
        ),
    };
    (Step::kernel(interface, outcome, text).met(rules), true)
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Direction, ipv4::PROTOCOL_UDP};

    use super::*;
    use crate::explain::rehearsal::RuleMet;

    fn flow() -> Flow {
        let [from, to] = [Ipv4Addr::new(10, 20, 1, 7), Ipv4Addr::new(10, 96, 0, 7)];
        let mut flow = Flow::new(from.into(), to.into(), 0, PROTOCOL_UDP, Direction::Encap);
        (flow.source_port, flow.destination_port) = (40_000_u16.to_be(), 53_u16.to_be());
        flow
    }

    #[test]
    fn a_flow_leaves_as_the_rules_made_it() {
        let [from, to] = ["10.20.1.7:40000", "10.20.2.8:7000"].map(|end| end.parse().unwrap());
        let left = Ok(Rehearsed { rules: Vec::new(), fate: Fate::Left(from, to) });
        assert_eq!(as_it_left(&flow(), &left).ends(), (from, to));
        let dropped = Ok(Rehearsed { rules: Vec::new(), fate: Fate::Dropped });
        assert_eq!(as_it_left(&flow(), &dropped), flow());
        assert_eq!(as_it_left(&flow(), &Err(anyhow::anyhow!("no nft"))), flow());
    }

    #[test]
    fn what_rules_let_not_pass_ends_the_way() {
        let routed = || Step::kernel("cali1", Outcome::Passed, "routes it dev tunl0".to_owned());
        let rule = RuleMet {
            table: "ip filter".to_owned(),
            chain: "cali-tw-cali1".to_owned(),
            rule: "-j DROP".to_owned(),
            verdict: "drop".to_owned(),
        };
        for (fate, outcome, is_over, says) in [
            (Fate::Left(flow().ends().0, flow().ends().1), Outcome::Passed, false, "routes it"),
            (Fate::Dropped, Outcome::Dropped, true, "ip filter cali-tw-cali1: -j DROP"),
            (Fate::Queued, Outcome::Unknown, true, "user space, which decides: ip filter"),
            (Fate::Lost, Outcome::Unknown, true, "did not come out"),
        ] {
            let rehearsed = Rehearsed { rules: vec![rule.clone()], fate };
            let (step, over) = with_rules(routed(), "cali1", rehearsed);
            assert_eq!((step.outcome, over), (outcome, is_over), "{fate:?}");
            assert!(step.text.contains(says), "{}", step.text);
            assert_eq!(step.rules.as_deref(), Some(&[rule.clone()][..]));
        }
    }
}
