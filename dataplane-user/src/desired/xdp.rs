//! On which links XDP may decapsulate.

use std::collections::BTreeSet;

use dataplane_common::{IfIndex, Program};

use super::{Facts, Terms};
use crate::{
    bpf::Attachment,
    config::{Config, DecapHook},
    kernel::{Host, Link},
};

/// Returns what a link is whose packets another link's driver receives, as in "bond0 is …".
///
/// A bond takes an XDP program and has the drivers of its parts run it, for the parts
/// (`drivers/net/bonding/bond_main.c`, `bond_xdp_set`): what is vouched for on a part arrives on the
/// bond. The others refuse the program.
#[must_use]
pub fn without_driver(link: &Link) -> Option<&'static str> {
    Some(match link.kind.as_deref()? {
        "bond" => "a bond",
        "team" => "a team",
        "bridge" => "a bridge",
        "vlan" => "a VLAN",
        "macvlan" => "a macvlan",
        "ipvlan" => "an ipvlan",
        _ => return None,
    })
}

/// Returns whether XDP may decapsulate on a link.
#[must_use]
pub fn may_decapsulate(config: &Config, host: &Host, terms: Terms<'_>, ifindex: IfIndex) -> bool {
    match config.underlay.decap {
        DecapHook::Tc => false,
        DecapHook::Xdp | DecapHook::Auto if terms.no_handover.contains(&ifindex) => false,
        DecapHook::Xdp => {
            host.links.get(&ifindex).is_some_and(|link| without_driver(link).is_none())
        }
        // A driver of its own, and one that has not refused. XDP on a veth
        // costs its peer TSO; a bond or VLAN is no driver.
        DecapHook::Auto => {
            host.links.get(&ifindex).is_some_and(|link| link.kind.is_none())
                && !terms.no_xdp.contains(&ifindex)
        }
    }
}

/// Returns XDP on links by which packets arrive, though our own leave by another now: of several next
/// hops the kernel shows one and then another.
#[must_use]
pub fn that_may_stay(
    config: &Config,
    host: &Host,
    facts: &Facts,
    terms: Terms<'_>,
) -> BTreeSet<Attachment> {
    let links = facts.receiving.difference(&facts.underlay).copied();
    links
        .filter(|ifindex| may_decapsulate(config, host, terms, *ifindex))
        .map(|ifindex| Attachment { program: Program::DecapXdp, ifindex })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Fastpath,
        netfilter::{ServiceFitness, UnansweredFitness},
    };

    #[test]
    fn a_link_without_a_driver_gets_no_xdp_whatever_the_file_asks_for() {
        let kinds = [None, Some("veth"), Some("bond"), Some("vlan"), Some("bridge")];
        let link = |kind: &Option<&str>| Link { kind: kind.map(Into::into), ..Link::default() };
        let host = Host {
            links: (1..).map(IfIndex).zip(kinds.iter().map(link)).collect(),
            ..Host::default()
        };
        let (none, services) = (BTreeSet::new(), ServiceFitness::default());
        let unanswered = UnansweredFitness::default();
        let terms = Terms {
            fastpath: Fastpath::Off,
            no_xdp: &none,
            no_handover: &none,
            secret: 1,
            unleased: &none,
            services: &services,
            unanswered: &unanswered,
            closing: None,
            try_end: None,
        };
        let mut config = Config::default();
        for (decap, expected) in
            [(DecapHook::Xdp, &[1, 2][..]), (DecapHook::Auto, &[1]), (DecapHook::Tc, &[])]
        {
            config.underlay.decap = decap;
            let may = |ifindex: &IfIndex| may_decapsulate(&config, &host, terms, *ifindex);
            let found: Vec<u32> =
                host.links.keys().filter(|it| may(it)).map(|ifindex| ifindex.0).collect();
            assert_eq!(found, expected, "{decap:?}");
        }
    }
}
