//! Policy routing of pods' packets, which the fast path `trusted` would pass by: it wraps by the
//! map `ROUTES` alone. `verified` follows what the stack has done with a flow's first packets.

use std::net::IpAddr;

use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use crate::kernel::Host;

/// Calico's WireGuard device (`felix/config`, `WireguardInterfaceName`).
pub const WIREGUARD: &str = "wireguard.cali";

/// What may send pods' packets another way than the main table, in words.
#[must_use]
pub fn of_pods(host: &Host) -> Option<String> {
    if host.link(WIREGUARD).is_some() {
        return Some(format!("Calico's encryption between nodes ({WIREGUARD})"));
    }
    let rule = host.rules.iter().find(|rule| may_be_about_pods(host, rule))?;
    let priority = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    Some(format!("the routing rule of priority {} (`ip rule`)", priority.unwrap_or_default()))
}

/// Whether a rule may be about forwarded packets of pods. Not so the kernel's own three, the one
/// of VRFs, those about the host's own addresses, and those about what the host itself sends.
fn may_be_about_pods(host: &Host, rule: &RuleMessage) -> bool {
    let has_selector = rule.attributes.iter().any(|attribute| {
        !matches!(
            attribute,
            RuleAttribute::Priority(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(_)
        )
    });
    let standard = [libc::RT_TABLE_LOCAL, libc::RT_TABLE_MAIN, libc::RT_TABLE_DEFAULT];
    if !has_selector && standard.contains(&rule.header.table) {
        return false;
    }
    !rule.attributes.iter().any(|attribute| match attribute {
        RuleAttribute::Source(IpAddr::V4(source)) => rule.header.src_len == 32 && host.has(*source),
        RuleAttribute::L3MDev(is_vrf) => *is_vrf,
        RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) => true,
        RuleAttribute::Iifname(name) => name == "lo",
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dataplane_common::IfIndex;

    use super::*;
    use crate::kernel::Link;

    const OURS: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);

    fn rule(table: u8, source: Option<(Ipv4Addr, u8)>, more: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.table = table;
        rule.attributes.push(RuleAttribute::Priority(99));
        rule.attributes.push(RuleAttribute::Table(table.into()));
        if let Some((source, length)) = source {
            rule.header.src_len = length;
            rule.attributes.push(RuleAttribute::Source(source.into()));
        }
        rule.attributes.extend_from_slice(more);
        rule
    }

    #[test]
    fn rules_that_may_be_about_pods_are_found() {
        let pods = Ipv4Addr::new(10, 20, 0, 0);
        let name = |name: &str| name.to_owned();
        for (rules, is_found) in [
            (vec![rule(255, None, &[]), rule(254, None, &[]), rule(253, None, &[])], false),
            (vec![rule(100, Some((OURS, 32)), &[])], false),
            (vec![rule(100, Some((pods, 16)), &[])], true),
            (vec![rule(100, None, &[])], true),
            (vec![rule(100, None, &[RuleAttribute::FwMark(0x10_0000)])], true),
            (vec![rule(100, None, &[RuleAttribute::Iifname(name("cali1"))])], true),
            (vec![rule(100, None, &[RuleAttribute::Iifname(name("lo"))])], false),
            (vec![rule(100, None, &[RuleAttribute::Oifname(name("eth1"))])], false),
            (vec![rule(0, None, &[RuleAttribute::L3MDev(true)])], false),
            (vec![rule(254, None, &[RuleAttribute::SuppressPrefixLen(0)])], false),
            (vec![rule(254, None, &[RuleAttribute::FwMark(1)])], true),
        ] {
            let addresses = vec![(IfIndex(2), OURS.into())];
            let host = Host { rules, addresses, ..Host::default() };
            assert_eq!(of_pods(&host).is_some(), is_found, "{:?}", host.rules);
        }
        let link = Link { name: WIREGUARD.into(), ..Link::default() };
        let host = Host { links: [(IfIndex(9), link)].into(), ..Host::default() };
        assert!(of_pods(&host).is_some_and(|found| found.contains(WIREGUARD)));
    }
}
