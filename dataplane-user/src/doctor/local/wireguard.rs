//! Calico's encryption between nodes by WireGuard. Felix makes a device, a table with a route over it to
//! each node's pods, and a rule that leads to this table whatever lacks Felix's mark. Packets of pods
//! then never come to the tunnel device, and so not to our programs.

use dataplane_common::IfIndex;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use super::super::{Check, Row, Verdict};
use crate::{
    config::Fastpath,
    daemon::{observe::policy_routing::WIREGUARD, report::Decided},
    kernel::Host,
};

/// The table that Felix takes where it is free.
const TABLE: u32 = 1;

/// The row about it.
pub fn row(decided: &Decided, host: &Host) -> Row {
    let device = host.link(WIREGUARD).map(|(ifindex, _)| ifindex);
    let rules: Vec<(u32, u32)> = host.rules.iter().filter_map(by_mark).collect();
    let leading = device.and_then(|device| rules.iter().find(|(_, it)| leads(host, *it, device)));
    match (device, leading) {
        (Some(_), _) if decided.fastpath == Fastpath::Trusted => {
            let what = format!(
                "{WIREGUARD} is here and the fast path `trusted` is active: packets of pods leave \
                 encapsulated and in clear text, past Calico's encryption"
            );
            Row::new(Check::Wireguard, Verdict::Fail, WIREGUARD, what)
                .remedy("set `fastpath: verified` or `off`")
        }
        (Some(device), Some((priority, table))) => {
            let over = over(host, *table, device);
            let what = format!(
                "the routing rule of priority {priority} chooses table {table}, of which {} over \
                 {WIREGUARD}: Calico encrypts packets of pods to there, they do not come to the tunnel \
                 device and their flows get no leases",
                if over == 1 { "1 route leads".to_owned() } else { format!("{over} routes lead") }
            );
            Row::new(Check::Wireguard, Verdict::Warn, WIREGUARD, what).remedy(
                "nothing, if that is wanted; tunless carries the other nodes' packets only \
                 (docs/compatibility.md)",
            )
        }
        (Some(_), None) => {
            let what = format!(
                "{WIREGUARD} is here, but no routing rule leads packets to it: tunless carries them \
                 encapsulated and in clear text"
            );
            Row::new(Check::Wireguard, Verdict::Warn, WIREGUARD, what).remedy(
                "where encryption is wanted, see Felix's log and `ip rule`; else set \
                 `wireguardEnabled: false` in Calico's FelixConfiguration",
            )
        }
        (None, _) => without_device(&rules),
    }
}

fn without_device(rules: &[(u32, u32)]) -> Row {
    match rules.iter().find(|(_, table)| *table == TABLE) {
        Some((priority, _)) => {
            let what = format!(
                "the routing rule of priority {priority} chooses table {TABLE} by a mark, as Felix's \
                 for WireGuard does, but there is no device {WIREGUARD}: what this table routes \
                 passes tunless by"
            );
            Row::new(Check::Wireguard, Verdict::Warn, format!("rule {priority}"), what).remedy(
                format!("see `ip route show table {TABLE}`; remove the rule if nothing needs it"),
            )
        }
        None => Row::pass(
            Check::Wireguard,
            format!("no device {WIREGUARD}, and no routing rule of Calico's for it"),
        ),
    }
}

/// The priority and the table of a rule that asks for a mark.
fn by_mark(rule: &RuleMessage) -> Option<(u32, u32)> {
    let (mut priority, mut table, mut has_mark) = (0, u32::from(rule.header.table), false);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(it) => priority = *it,
            RuleAttribute::Table(it) => table = *it,
            RuleAttribute::FwMark(_) | RuleAttribute::FwMask(_) => has_mark = true,
            _ => {}
        }
    }
    has_mark.then_some((priority, table))
}

fn leads(host: &Host, table: u32, device: IfIndex) -> bool {
    over(host, table, device) > 0
}

/// How many routes of a table lead over a device.
fn over(host: &Host, table: u32, device: IfIndex) -> usize {
    let over_it = host.other_tables.iter().filter(|(number, route)| {
        *number == table && route.next_hops().any(|(ifindex, _)| ifindex == device)
    });
    over_it.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{KernelRoute, Link};

    const DEVICE: IfIndex = IfIndex(9);

    fn host(has_device: bool, table: Option<u32>, is_led_there: bool) -> Host {
        let mut host = Host::default();
        if has_device {
            let link = Link { name: WIREGUARD.into(), ..Link::default() };
            host.links.insert(DEVICE, link);
        }
        host.rules.extend(table.map(|table| {
            let mut rule = RuleMessage::default();
            rule.attributes.extend([
                RuleAttribute::Priority(99),
                RuleAttribute::Table(table),
                RuleAttribute::FwMark(0x10_0000),
                RuleAttribute::FwMask(0x10_0000),
            ]);
            rule
        }));
        if let Some(table) = table.filter(|_| is_led_there) {
            let route = KernelRoute { ifindex: Some(DEVICE), ..KernelRoute::default() };
            host.other_tables.push((table, route));
        }
        host
    }

    fn decided(fastpath: Fastpath) -> Decided {
        let json = serde_json::json!({
            "mode": "accelerate", "mode_ground": "", "fastpath": fastpath, "spoof": "drop",
            "node": "172.16.36.10", "node_ground": "", "has_routes": true, "marks": false,
            "tunnel": {"interface": "tunl0", "ifindex": 7, "address": null, "mtu": 1480},
            "attachments": [],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_rule_that_leads_there_takes_packets_past_tunless() {
        let row = row(&decided(Fastpath::Verified), &host(true, Some(1), true));
        assert_eq!((row.verdict, row.subject.as_str()), (Verdict::Warn, WIREGUARD));
        assert!(
            row.what.contains("priority 99 chooses table 1, of which 1 route leads over"),
            "{}",
            row.what
        );
    }

    /// Felix takes another table where that one is taken.
    #[test]
    fn another_table_does_as_well() {
        let row = row(&decided(Fastpath::Off), &host(true, Some(17), true));
        assert!(
            row.what.contains("table 17, of which 1 route leads over wireguard.cali"),
            "{}",
            row.what
        );
    }

    #[test]
    fn a_device_without_a_rule_encrypts_nothing() {
        for host in [host(true, None, false), host(true, Some(1), false)] {
            let row = row(&decided(Fastpath::Verified), &host);
            assert_eq!(row.verdict, Verdict::Warn);
            assert!(row.what.contains("in clear text"), "{}", row.what);
        }
    }

    #[test]
    fn trusted_passes_the_encryption_by() {
        for host in [host(true, None, false), host(true, Some(1), true)] {
            assert_eq!(row(&decided(Fastpath::Trusted), &host).verdict, Verdict::Fail);
        }
    }

    #[test]
    fn a_rule_without_a_device_is_named_if_it_is_like_felixs() {
        let decided = decided(Fastpath::Verified);
        let found = row(&decided, &host(false, Some(1), false));
        assert_eq!((found.verdict, found.subject.as_str()), (Verdict::Warn, "rule 99"));
        assert_eq!(row(&decided, &host(false, Some(2), false)).verdict, Verdict::Pass);
        assert_eq!(row(&decided, &host(false, None, false)).verdict, Verdict::Pass);
    }
}
