//! Which packets a command wants to see, as the programs of a trace compare them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::{
    Ipv4Be, Prefix, Reason, Route, Verdict,
    ipv4::{PROTOCOL_TCP, PROTOCOL_UDP},
    trace::{Filter, MAX_PREFIXES},
};
use ipnet::Ipv4Net;

use crate::protocol;

/// What was typed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// Pods, or nets of them.
    pub pods: Vec<Ipv4Net>,
    /// Other nodes.
    pub nodes: Vec<Ipv4Addr>,
    /// The inner packet's protocol.
    pub protocol: Option<u8>,
    /// One of its ports.
    pub port: Option<u16>,
    /// Only these reasons; empty: all.
    pub reasons: Vec<Reason>,
    /// Only packets that are dropped, by us or by the kernel.
    pub drops: bool,
    /// How many new packets each second.
    pub rate: u32,
    /// One packet of so many.
    pub sample: u32,
}

/// Returns the filter for that. A node stands for its address and for the prefixes of its pods.
///
/// # Errors
/// What no packet can be.
pub fn build(wanted: &Wanted, routes: &BTreeMap<Ipv4Net, Route>) -> Result<Filter, String> {
    let has_ports = |number: &u8| [PROTOCOL_TCP, PROTOCOL_UDP].contains(number);
    if let (Some(port), Some(number)) = (wanted.port, wanted.protocol.filter(|it| !has_ports(it))) {
        let name = protocol::name(number.into());
        return Err(format!("port {port} of {name}: only tcp and udp have ports"));
    }
    let within = prefixes(wanted, routes)?;
    let mut filter = Filter {
        rate: wanted.rate,
        sample: wanted.sample,
        protocol: wanted.protocol.unwrap_or(0).into(),
        port: wanted.port.unwrap_or(0).to_be(),
        prefixes: within.len() as u16,
        // A reason of ours is none of the kernel's.
        kernel: wanted.reasons.is_empty().into(),
        ..Filter::default()
    };
    for (place, net) in filter.within.iter_mut().zip(&within) {
        *place =
            Prefix { network: Ipv4Be::from(net.network()), mask: Prefix::mask(net.prefix_len()) };
    }
    let is_wanted = |reason: &&Reason| {
        (wanted.reasons.is_empty() || wanted.reasons.contains(reason))
            && (!wanted.drops || reason.verdict() == Verdict::Dropped)
    };
    for reason in Reason::ALL.iter().filter(is_wanted) {
        let index = *reason as usize;
        filter.reasons[index / 64] |= 1 << (index % 64);
    }
    if filter.reasons.iter().all(|word| *word == 0) {
        return Err("none of the reasons given is a drop: leave --drops out".to_owned());
    }
    Ok(filter)
}

/// The prefixes that one of a packet's addresses has to be in; none: any will do.
fn prefixes(wanted: &Wanted, routes: &BTreeMap<Ipv4Net, Route>) -> Result<Vec<Ipv4Net>, String> {
    let mut within = wanted.pods.clone();
    for node in &wanted.nodes {
        let of_node = |route: &Route| !route.is_local() && Ipv4Addr::from(route.node) == *node;
        let behind: Vec<_> =
            routes.iter().filter(|(_, route)| of_node(route)).map(|(net, _)| *net).collect();
        if behind.is_empty() {
            return Err(format!(
                "no route leads to the node {node}: `tunless nodes list` shows the nodes"
            ));
        }
        within.push(Ipv4Net::from(*node));
        within.extend(behind);
    }
    let within = Ipv4Net::aggregate(&within);
    if within.len() > MAX_PREFIXES {
        return Err(format!(
            "the pods and nodes given are {} prefixes, and a trace compares at most {MAX_PREFIXES}: \
             name fewer",
            within.len()
        ));
    }
    Ok(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { rate: 100, sample: 1, ..Wanted::default() }
    }

    fn routes() -> BTreeMap<Ipv4Net, Route> {
        let route =
            |node: [u8; 4]| Route { node: Ipv4Be::from(Ipv4Addr::from(node)), ..Route::default() };
        [
            ("10.20.1.0/26".parse().unwrap(), route([172, 16, 0, 1])),
            ("10.20.2.0/26".parse().unwrap(), route([172, 16, 0, 2])),
        ]
        .into()
    }

    fn within(filter: &Filter) -> Vec<String> {
        let shown =
            |prefix: &Prefix| format!("{}/{}", Ipv4Addr::from(prefix.network), prefix.length());
        filter.within[..usize::from(filter.prefixes)].iter().map(shown).collect()
    }

    #[test]
    fn without_conditions_every_packet_is_wanted() {
        let filter = build(&wanted(), &routes()).unwrap();
        assert_eq!((filter.protocol, filter.port, filter.prefixes, filter.kernel), (0, 0, 0, 1));
        let bits: u32 = filter.reasons.iter().map(|word| word.count_ones()).sum();
        assert_eq!(bits as usize, Reason::COUNT);
    }

    #[test]
    fn a_node_stands_for_its_pods() {
        let nodes = vec!["172.16.0.2".parse().unwrap()];
        let filter = build(&Wanted { nodes, ..wanted() }, &routes()).unwrap();
        assert_eq!(within(&filter), ["10.20.2.0/26", "172.16.0.2/32"]);
        let nodes = vec!["172.16.0.3".parse().unwrap()];
        let error = build(&Wanted { nodes, ..wanted() }, &routes()).unwrap_err();
        assert!(error.contains("no route leads to the node 172.16.0.3"), "{error}");
    }

    #[test]
    fn what_no_packet_can_be_is_refused() {
        for (wanted, complaint) in [
            (Wanted { protocol: Some(1), port: Some(53), ..wanted() }, "only tcp and udp"),
            (
                Wanted { reasons: vec![Reason::DecapToPod], drops: true, ..wanted() },
                "none of the reasons",
            ),
            (
                Wanted {
                    pods: (0..=MAX_PREFIXES as u8)
                        .map(|last| Ipv4Net::from(Ipv4Addr::new(10, 0, last, 1)))
                        .collect(),
                    ..wanted()
                },
                "at most 16",
            ),
        ] {
            let error = build(&wanted, &routes()).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn drops_are_those_of_the_kernel_too() {
        let filter = build(&Wanted { drops: true, ..wanted() }, &routes()).unwrap();
        let is_in = |reason: Reason| {
            filter.reasons[reason as usize / 64] >> (reason as usize % 64) & 1 == 1
        };
        assert!(is_in(Reason::DecapForgedSource) && !is_in(Reason::DecapToPod));
        assert_eq!(filter.kernel, 1);
        let reasons = vec![Reason::DecapForgedSource];
        let filter = build(&Wanted { reasons, ..wanted() }, &routes()).unwrap();
        assert_eq!(filter.kernel, 0, "a reason of ours is none of the kernel's");
    }
}
