//! Interfaces whose packets the kernel does not forward (`net.ipv4.conf.<interface>.forwarding`).

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::IfIndex;

use super::{Code, Problem, check::listed};
use crate::output;

/// The interfaces by which packets from and to pods reach the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Ways<'a> {
    /// The tunnel device's name.
    pub device: &'a str,
    /// Its index.
    pub tunnel: IfIndex,
    /// Local pods' interfaces.
    pub pods: &'a BTreeSet<IfIndex>,
    /// Where unencapsulated packets for pods arrive.
    pub plain_underlay: &'a BTreeSet<IfIndex>,
}

/// Returns the problems of interfaces that are `off`. Where the tunnel device is one, or all
/// pods' interfaces are, this node carries no pod traffic.
#[must_use]
pub fn forwarding(
    ways: Ways<'_>,
    off: &BTreeSet<IfIndex>,
    names: &BTreeMap<IfIndex, String>,
) -> Vec<Problem> {
    let Ways { device, tunnel, pods, plain_underlay } = ways;
    if off.contains(&tunnel) {
        let what = format!(
            "net.ipv4.conf.{device}.forwarding is 0, so the kernel forwards nothing to or from pods"
        );
        let problem = Problem::new(Code::ForwardingOff, device, what);
        return vec![problem.remedy("run `sysctl -w net.ipv4.ip_forward=1`")];
    }
    let named = |interfaces: &BTreeSet<IfIndex>| -> Vec<String> {
        // An interface without a name is gone.
        interfaces.intersection(off).filter_map(|index| names.get(index).cloned()).collect()
    };
    let set = |name: &str| format!("run `sysctl -w net.ipv4.conf.{name}.forwarding=1`");
    let mut problems = Vec::new();
    let silent = named(pods);
    if let Some(first) = silent.first() {
        let is_all = silent.len() == pods.len();
        let code = if is_all { Code::ForwardingOff } else { Code::PodForwardingOff };
        let what = format!(
            "forwarding is off on {} of {}, so the kernel forwards nothing from these pods: {}",
            silent.len(),
            output::count(pods.len(), "pod interface"),
            listed(&silent),
        );
        let others = if silent.len() == 1 { "" } else { ", and likewise for the others" };
        problems.push(Problem::new(code, "pods", what).remedy(format!("{}{others}", set(first))));
    }
    problems.extend(named(plain_underlay).iter().map(|name| {
        let what = format!(
            "net.ipv4.conf.{name}.forwarding is 0, so the kernel forwards no unencapsulated \
             packet from {name} to pods"
        );
        Problem::new(Code::UnderlayForwardingOff, name, what).remedy(set(name))
    }));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_that_does_not_forward_is_named_once() {
        let names: BTreeMap<IfIndex, String> =
            [(2, "eth0"), (4, "tunless0"), (7, "cali7"), (8, "cali8"), (9, "cali9")]
                .map(|(index, name)| (IfIndex(index), name.to_owned()))
                .into();
        let pods = [7, 8, 9].map(IfIndex).into();
        let (none, eth0) = (BTreeSet::new(), [IfIndex(2)].into());
        for (off, underlay, expected) in [
            (vec![], &eth0, vec![]),
            (vec![4, 7, 8, 9, 2], &eth0, vec![(Code::ForwardingOff, "tunless0")]),
            (vec![7, 8, 9], &eth0, vec![(Code::ForwardingOff, "pods")]),
            (vec![8, 2], &none, vec![(Code::PodForwardingOff, "pods")]),
            (vec![2], &eth0, vec![(Code::UnderlayForwardingOff, "eth0")]),
            (vec![2], &none, vec![]),
            // Gone, and another program's.
            (vec![5, 77], &eth0, vec![]),
        ] {
            let (device, tunnel) = ("tunless0", IfIndex(4));
            let ways = Ways { device, tunnel, pods: &pods, plain_underlay: underlay };
            let found = forwarding(ways, &off.iter().copied().map(IfIndex).collect(), &names);
            let found: Vec<_> =
                found.iter().map(|problem| (problem.code, problem.subject.as_str())).collect();
            assert_eq!(found, expected, "{off:?}");
        }
    }

    /// One problem for many pods, with the number and the first names.
    #[test]
    fn many_pods_are_one_problem() {
        let pods: BTreeSet<IfIndex> = (1..=600).map(IfIndex).collect();
        let names: BTreeMap<IfIndex, String> =
            pods.iter().map(|pod| (*pod, format!("cali{pod}"))).collect();
        let none = BTreeSet::new();
        let (device, tunnel) = ("tunless0", IfIndex::NONE);
        let ways = Ways { device, tunnel, pods: &pods, plain_underlay: &none };
        let off: BTreeSet<IfIndex> = (1..=599).map(IfIndex).collect();
        let found = forwarding(ways, &off, &names);
        assert_eq!(found.len(), 1);
        let what = &found[0].what;
        assert!(what.starts_with("forwarding is off on 599 of 600 pod interfaces, "), "{what}");
        assert!(what.ends_with("cali20 and 579 more"), "{what}");
    }
}
