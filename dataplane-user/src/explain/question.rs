//! What is asked, and which packets that is about.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use dataplane_common::{
    Direction, Endpoint, Flow, IfIndex, Ipv4Be, Lease,
    ipv4::{PROTOCOL_TCP, PROTOCOL_UDP},
};
use nix::net::if_::if_nametoindex;

use crate::bpf::Maps;

/// The sender's port where none is given.
const FROM_PORT: u16 = 40_000;
/// The receiver's.
const TO_PORT: u16 = 80;

/// Who sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum From {
    /// A pod's address.
    Address(Ipv4Addr),
    /// A local pod's interface.
    Interface(String),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
        if begins && text.len() < 16 && text.chars().all(is_name) {
            return Ok(Self::Interface(text.to_owned()));
        }
        Err("neither an IPv4 address nor the name of a pod's interface".to_owned())
    }
}

/// Who is to receive: an address, or with a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct To {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: Option<u16>,
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        let end: SocketAddrV4 =
            text.parse().map_err(|_| "neither an IPv4 address nor ADDRESS:PORT".to_owned())?;
        Ok(Self { address: *end.ip(), port: Some(end.port()) })
    }
}

/// What the packet is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Protocol {
    /// A packet from the middle of a connection: its ACK flag is set, and SYN, FIN and RST are not.
    #[default]
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
}

impl Protocol {
    /// Its number in an IP header.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTOCOL_TCP,
            Self::Udp => PROTOCOL_UDP,
            Self::Icmp => 1,
        }
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Who sends.
    pub from: From,
    /// The source in the packet, if it is not the sender's own address.
    pub source: Option<Ipv4Addr>,
    /// Who is to receive.
    pub to: To,
    /// What is sent.
    pub protocol: Protocol,
    /// The sender's port.
    pub from_port: Option<u16>,
}

/// A local pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its interface.
    pub endpoint: Endpoint,
}

/// Which packets it is about.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The local pod.
    pub pod: Pod,
    /// What leaves it, as it leaves it.
    pub out: Option<Flow>,
    /// What comes to it, as it is on the wire.
    pub into: Option<Flow>,
    /// The node that sends the latter.
    pub node: Option<Ipv4Addr>,
    /// Whether the pod is the sender.
    pub is_out_first: bool,
    /// The source in the first packet.
    pub source: Ipv4Addr,
    /// Its destination.
    pub to: Ipv4Addr,
}

impl Question {
    /// Finds the local pod, and the flows: those of a lease that is good `now`, where there is one.
    ///
    /// # Errors
    /// If neither end is a local pod, or the other one is not what it may be.
    pub fn case(&self, maps: &Maps, now: Duration) -> Result<Case> {
        let pod = match &self.from {
            From::Address(address) => pod_of(maps, *address),
            From::Interface(name) => Some(pod_on(maps, name)?),
        };
        let leases = maps.good_leases(now)?;
        let To { address: to, .. } = self.to;
        if let Some(pod) = pod {
            let source = self.source.unwrap_or(pod.address);
            let (out, lease) = self.flow(source, to, Direction::Encap, &leases);
            let answered = translated(&out, lease);
            let node = node_of(maps, answered.destination.into())?;
            let into = node.map(|_| answered.reverse());
            let out = Some(out);
            return Ok(Case { pod, out, into, node, is_out_first: true, source, to });
        }
        let From::Address(from) = self.from else { bail!("no such pod") };
        if self.source.is_some() {
            bail!("--source goes with a sender on this node, and {from} is not a pod of this node");
        }
        let pod = pod_of(maps, to).with_context(|| {
            format!(
                "neither {from} nor {to} is a pod of this node: `tunless endpoints list` shows those"
            )
        })?;
        let node = node_of(maps, from)?.with_context(|| {
            format!(
                "{from} is neither a pod of this node nor of another one: `tunless routes list` \
                 shows which addresses are"
            )
        })?;
        let (into, lease) = self.flow(from, to, Direction::Decap, &leases);
        let answered = translated(&into, lease);
        let (out, into) = (Some(answered.reverse()), Some(into));
        Ok(Case { pod, out, into, node: Some(node), is_out_first: false, source: from, to })
    }

    /// The flow that is asked about, and its lease.
    fn flow(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        direction: Direction,
        leases: &[(Flow, Lease)],
    ) -> (Flow, Option<Lease>) {
        let with_ports = |from: u16, to: u16| Flow {
            source: source.into(),
            destination: destination.into(),
            source_port: from.to_be(),
            destination_port: to.to_be(),
            protocol: self.protocol.number(),
            direction: direction as u8,
            reserved: 0,
        };
        if self.protocol == Protocol::Icmp {
            return (with_ports(0, 0), None);
        }
        let is_asked = |flow: &Flow| {
            let (from, to) = (u16::from_be(flow.source_port), u16::from_be(flow.destination_port));
            *flow == with_ports(from, to)
                && self.from_port.is_none_or(|port| port == from)
                && self.to.port.is_none_or(|port| port == to)
        };
        let leased = leases.iter().filter(|(flow, _)| is_asked(flow));
        match leased.max_by_key(|(_, lease)| lease.packets) {
            Some((flow, lease)) => (*flow, Some(*lease)),
            None => {
                let from = self.from_port.unwrap_or(FROM_PORT);
                (with_ports(from, self.to.port.unwrap_or(TO_PORT)), None)
            }
        }
    }
}

/// The flow as its lease makes it.
fn translated(flow: &Flow, lease: Option<Lease>) -> Flow {
    let translation = lease.map(|lease| lease.translation);
    let translation = translation.filter(|translation| !translation.is_none());
    translation.map_or(*flow, |translation| translation.of(flow))
}

fn pod_of(maps: &Maps, address: Ipv4Addr) -> Option<Pod> {
    let endpoint = maps.endpoints.get(Ipv4Be::from(address)).ok()?;
    Some(Pod { address, endpoint })
}

fn pod_on(maps: &Maps, name: &str) -> Result<Pod> {
    let index = if_nametoindex(name).ok().map(IfIndex);
    let index = index.with_context(|| {
        format!(
            "{name} is neither an address nor an interface; `tunless endpoints list` shows the pods"
        )
    })?;
    for entry in maps.endpoints.iter() {
        let (address, endpoint) = entry?;
        if endpoint.hop.ifindex == index {
            return Ok(Pod { address: address.into(), endpoint });
        }
    }
    bail!("{name} is not a pod's interface; `tunless endpoints list` shows the pods")
}

/// The node that carries an address, if it is another one's pod to which packets are encapsulated.
///
/// # Errors
/// If the maps cannot be read.
pub fn node_of(maps: &Maps, address: Ipv4Addr) -> Result<Option<Ipv4Addr>> {
    let route = maps.route_to(address)?.map(|(_, route)| route);
    let route = route.filter(|route| route.is_destination() && !route.is_direct());
    Ok(route.map(|route| route.node.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_addresses_or_interfaces() {
        let address = Ipv4Addr::new(10, 20, 1, 7);
        assert_eq!("10.20.1.7".parse(), Ok(From::Address(address)));
        assert_eq!("cali1a2b".parse(), Ok(From::Interface("cali1a2b".to_owned())));
        for wrong in ["10.20.1", "10.20.1.7:80", "", "default/web", "caliinterfacelonger"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
        assert_eq!("10.20.1.7".parse(), Ok(To { address, port: None }));
        assert_eq!("10.20.1.7:80".parse(), Ok(To { address, port: Some(80) }));
        for wrong in ["10.20.1.7:", "10.20.1.7:70000", "web", ":80"] {
            assert!(wrong.parse::<To>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_busiest_lease_names_the_ports_that_are_not_given() {
        let address = |last| Ipv4Addr::new(10, 20, 1, last);
        let question = |to: &str, from_port| Question {
            from: From::Address(address(7)),
            source: None,
            to: to.parse().unwrap(),
            protocol: Protocol::Tcp,
            from_port,
        };
        let leased = |from: u16, to: u16, packets| {
            let (mut flow, _) =
                question("10.20.1.8", None).flow(address(7), address(8), Direction::Encap, &[]);
            (flow.source_port, flow.destination_port) = (from.to_be(), to.to_be());
            (flow, Lease { packets, ..Lease::default() })
        };
        let leases = [leased(1000, 53, 5), leased(2000, 443, 9), leased(3000, 53, 7)];
        for (to, from_port, expected) in [
            ("10.20.1.8", None, (2000, 443, true)),
            ("10.20.1.8:53", None, (3000, 53, true)),
            ("10.20.1.8:53", Some(1000), (1000, 53, true)),
            ("10.20.1.8:8080", None, (FROM_PORT, 8080, false)),
            ("10.20.1.8", Some(9), (9, TO_PORT, false)),
        ] {
            let asked = question(to, from_port);
            let (flow, lease) = asked.flow(address(7), address(8), Direction::Encap, &leases);
            let ports = (u16::from_be(flow.source_port), u16::from_be(flow.destination_port));
            assert_eq!((ports.0, ports.1, lease.is_some()), expected, "{to} {from_port:?}");
        }
    }
}
