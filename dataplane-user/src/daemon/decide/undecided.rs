//! Why nothing can be decided.

use std::path::Path;

use super::Decider;
use crate::{
    config::Mode,
    daemon::report::{Code, Problem},
    desired::TunnelMode,
    kernel::{Host, TUNL0, TUNNEL},
};

/// Returns why there is no decision. `path`: the configuration file.
#[must_use]
pub fn problem(decider: &Decider, host: &Host, path: &Path) -> Problem {
    if decider.memory().node.is_none() {
        return no_address(host, path);
    }
    let is_accelerated = decider.file().config.mode == Mode::Accelerate
        || decider.memory().mode.is_some_and(|mode| mode.mode == TunnelMode::Accelerate);
    if is_accelerated {
        let what = "there is no tunl0 that is up, so nothing is changed until it is back";
        return Problem::new(Code::TunnelDeviceMissing, TUNL0, what)
            .remedy("`mode: replace` does without it");
    }
    let what = format!("the tunnel device {TUNNEL} is gone");
    Problem::new(Code::TunnelDeviceMissing, TUNNEL, what)
}

/// The main table leads to no node. A VRF has a table of its own, which neither tunl0 nor the
/// programs look at.
fn no_address(host: &Host, path: &Path) -> Problem {
    let known = "this node's underlay address is not known: no node can be reached and there is no default \
         route";
    let in_vrf = host.addresses.iter().filter(|(_, net)| !net.addr().is_link_local());
    let mut in_vrf = in_vrf.filter_map(|(ifindex, net)| {
        Some((host.links.get(ifindex)?, host.vrf(*ifindex)?, net.addr()))
    });
    let Some((link, vrf, address)) = in_vrf.next() else {
        return Problem::new(Code::NoNodeAddress, "", known)
            .remedy(format!("set node.address in {}", path.display()));
    };
    let (link, vrf) = (&link.name, &vrf.name);
    let what = format!(
        "{known} in the main table; {link} with {address} is in the VRF {vrf} (an underlay in a VRF \
         is not supported)"
    );
    let remedy = format!(
        "take {link} out of {vrf} and set node.address: {address} in {}, or set it to an address \
         outside of {vrf} from which the nodes are reached",
        path.display()
    );
    Problem::new(Code::NoNodeAddress, link.clone(), what).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use dataplane_common::IfIndex;

    use super::*;
    use crate::kernel::Link;

    /// The VRF of the address is named; another VRF, or none, is not.
    #[test]
    fn an_address_in_a_vrf_is_named() {
        let [blue, eth0, eth1] = [2, 3, 4].map(IfIndex);
        let link = |name: &str, kind: Option<&str>, master| Link {
            name: name.into(),
            kind: kind.map(Into::into),
            master,
            ..Link::default()
        };
        for (kind, master, address, subject) in [
            ("vrf", Some(blue), "172.16.36.10/24", "eth0"),
            ("vrf", None, "172.16.36.10/24", ""),
            ("bridge", Some(blue), "172.16.36.10/24", ""),
            ("vrf", Some(blue), "169.254.7.7/16", ""),
        ] {
            let links = [
                (blue, link("blue", Some(kind), None)),
                (eth0, link("eth0", None, master)),
                (eth1, link("eth1", None, Some(blue))),
            ];
            let host = Host {
                links: links.into(),
                addresses: [(eth0, address.parse().unwrap())].into_iter().collect(),
                ..Host::default()
            };
            let found = no_address(&host, Path::new("/etc/tunless/config.yaml"));
            assert_eq!((found.code, found.subject.as_str()), (Code::NoNodeAddress, subject));
            let remedy = found.remedy.unwrap();
            assert!(remedy.contains("node.address") && remedy.contains("/etc/tunless"), "{remedy}");
            for text in [&found.what, &remedy] {
                assert_eq!(text.contains("blue"), !subject.is_empty(), "{kind} {address}: {text}");
            }
        }
    }
}
