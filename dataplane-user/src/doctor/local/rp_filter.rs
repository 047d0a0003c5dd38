//! Strict `rp_filter` drops what arrives on an interface by which the kernel would not send back
//! (`net/ipv4/fib_frontend.c`, `__fib_validate_source`). Decapsulated packets arrive on the tunnel
//! device, so the routes to remote pods have to lead there.

use std::{collections::BTreeMap, fs, time::Duration};

use dataplane_common::{IfIndex, Route};
use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::super::{Check, Row, Verdict};
use crate::{
    address::supernets,
    daemon::{
        observe::foreign::{Foreign, hop},
        outside::Outside,
        report::Decided,
    },
    kernel::{Host, KernelRoute},
    output,
};

/// `rp_filter`: a packet has to arrive where the answer would leave.
const STRICT: u8 = 1;
/// So many prefixes have a row of their own.
const LISTED: usize = 20;

/// How long the kernel's counter is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// Watches how many packets `rp_filter` drops on this host.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    began: Instant,
    dropped: Option<u64>,
}

impl Watch {
    /// Begins.
    pub fn begin() -> Self {
        Self { began: Instant::now(), dropped: dropped_so_far() }
    }

    /// Returns how many packets were dropped since it began, for at least a second; `None`: the
    /// kernel does not count them.
    pub async fn end(self) -> Option<u64> {
        tokio::time::sleep_until(self.began + WATCHED).await;
        Some(dropped_so_far()?.saturating_sub(self.dropped?))
    }
}

fn dropped_so_far() -> Option<u64> {
    dropped(&fs::read_to_string("/proc/net/netstat").ok()?)
}

/// Prefixes whose packets the kernel drops on the tunnel device, and a row about what it `drops` now;
/// or one about what is set.
pub fn rows(decided: &Decided, outside: &Outside, drops: Option<u64>) -> Vec<Row> {
    let device = decided.tunnel.interface.as_str();
    let (Some((value, from)), Some((tunnel, _)), Some(routes)) =
        (effective(device), outside.host.link(device), &outside.routes)
    else {
        let what = format!("not looked at: {device} or the map of routes is missing");
        return vec![Row::new(Check::RpFilter, Verdict::Skip, device, what)];
    };
    let mut rows = Vec::new();
    if value == STRICT {
        let back = Back { device, from };
        let elsewhere = elsewhere(&outside.host, routes, tunnel);
        rows.extend(elsewhere.iter().map(|(cidr, leads)| back.row(*cidr, leads)));
        let inside = outside.seen.foreign.iter();
        let inside = inside.filter(|it: &&Foreign| !routes.contains_key(&it.destination));
        rows.extend(inside.map(|it| back.row(it.destination, &it.leads)));
        rows.truncate(LISTED);
    }
    rows.extend(drops.filter(|packets| *packets > 0).map(counted));
    if rows.is_empty() {
        let set = match value {
            STRICT => format!("strict on {device}, and the routes back to remote pods lead there"),
            _ => format!("{value} on {device}, so not strict"),
        };
        rows.push(Row::pass(Check::RpFilter, set + "; nothing was dropped within a second"));
    }
    rows
}

/// The tunnel device, and which sysctl makes it strict.
#[derive(Clone, Copy)]
struct Back<'a> {
    device: &'a str,
    from: &'a str,
}

impl Back<'_> {
    fn row(self, cidr: Ipv4Net, leads: &str) -> Row {
        let Self { device, from } = self;
        let what = format!(
            "net.ipv4.conf.{from}.rp_filter is 1 and the kernel's route back to {cidr} leads {leads}: \
             it drops every packet from there that arrives on {device}"
        );
        Row::new(Check::RpFilter, Verdict::Fail, format!("{device} {cidr}"), what).remedy(format!(
            "repair the route (`ip route get {}`), or run `sysctl -w net.ipv4.conf.{device}.rp_filter=2`",
            cidr.network()
        ))
    }
}

/// The `rp_filter` that counts on an interface, the greater of its own and that of `all`, and whose it
/// is.
fn effective(interface: &str) -> Option<(u8, &str)> {
    let value = |name: &str| -> Option<u8> {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some(greater(interface, value(interface)?, value("all")?))
}

fn greater(interface: &str, own: u8, all: u8) -> (u8, &str) {
    if all > own { (all, "all") } else { (own, interface) }
}

/// Returns routes of ours over the tunnel device to which the kernel sends otherwise, and where it
/// sends.
fn elsewhere(
    host: &Host,
    routes: &BTreeMap<Ipv4Net, Route>,
    tunnel: IfIndex,
) -> Vec<(Ipv4Net, String)> {
    let mut best: BTreeMap<Ipv4Net, &KernelRoute> = BTreeMap::new();
    for route in &host.routes {
        let known = best.entry(route.destination).or_insert(route);
        if route.metric < known.metric {
            *known = route;
        }
    }
    let ours = routes.iter().filter(|(_, route)| route.is_destination() && !route.is_direct());
    let leads = |cidr: &Ipv4Net| {
        let Some(route) = supernets(*cidr).find_map(|net| best.get(&net)) else {
            return Some("nowhere".to_owned());
        };
        let mut hops = route.next_hops().peekable();
        if hops.peek().is_some() && hops.any(|(ifindex, _)| ifindex == tunnel) {
            return None;
        }
        let hops: Vec<String> =
            route.next_hops().map(|(ifindex, gateway)| hop(host, ifindex, gateway)).collect();
        Some(if hops.is_empty() { "nowhere".to_owned() } else { hops.join(", ") })
    };
    ours.filter_map(|(cidr, _)| Some((*cidr, leads(cidr)?))).collect()
}

/// Returns `IPReversePathFilter` of `/proc/net/netstat`: a line of names, then one of values.
fn dropped(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "IPReversePathFilter")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

fn counted(packets: u64) -> Row {
    let count = output::count(usize::try_from(packets).unwrap_or(usize::MAX), "packet");
    let what = format!(
        "rp_filter dropped {count} on this host within a second: from pods with a source that is not \
         theirs, or from sources to which a route back leads elsewhere"
    );
    Row::new(Check::RpFilter, Verdict::Warn, "", what).remedy(
        "`sysctl -w net.ipv4.conf.all.log_martians=1` logs interface and source of some of them",
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::kernel::Link;

    #[test]
    fn the_greater_value_counts() {
        assert_eq!(greater("tunless0", 0, 1), (1, "all"));
        assert_eq!(greater("tunless0", 1, 1), (1, "tunless0"));
        assert_eq!(greater("tunless0", 2, 1), (2, "tunless0"));
    }

    #[test]
    fn the_kernels_counter_is_found_by_its_name() {
        let text =
            "TcpExt: SyncookiesSent IPReversePathFilter Other\nTcpExt: 1 6 2\nIpExt: A\nIpExt: 3\n";
        assert_eq!(dropped(text), Some(6));
        assert_eq!(dropped("TcpExt: Other\nTcpExt: 1\n"), None);
        assert_eq!(dropped(""), None);
    }

    #[test]
    fn a_route_that_is_gone_leads_elsewhere() {
        const TUNNEL: IfIndex = IfIndex(4);
        const ETH0: IfIndex = IfIndex(2);
        let net = |text: &str| -> Ipv4Net { text.parse().unwrap() };
        let node = Ipv4Addr::new(172, 16, 35, 4);
        let to = |flags| Route { node: node.into(), since: 0, flags, source: 0 };
        let routes = BTreeMap::from([
            (net("10.20.42.0/26"), to(0)),
            (net("10.20.43.0/26"), to(0)),
            (net("10.20.44.0/26"), to(Route::DIRECT)),
        ]);
        let kernel = |cidr, ifindex, gateway| KernelRoute {
            destination: net(cidr),
            ifindex: Some(ifindex),
            gateway,
            ..KernelRoute::default()
        };
        let gateway = Some(Ipv4Addr::new(172, 16, 36, 1));
        let host = Host {
            links: BTreeMap::from([(ETH0, Link { name: "eth0".into(), ..Link::default() })]),
            routes: vec![kernel("10.20.42.0/26", TUNNEL, None), kernel("0.0.0.0/0", ETH0, gateway)],
            ..Host::default()
        };
        let leads = "via 172.16.36.1 dev eth0".to_owned();
        assert_eq!(elsewhere(&host, &routes, TUNNEL), [(net("10.20.43.0/26"), leads)]);
    }
}
