//! `tunless routes …`

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::{Ipv4Be, Mtu, Node, Route};
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::{Maps, Pins},
    clock,
    config::Cidr,
    daemon::{
        observe::foreign::{foreign_routes, hop},
        report::State,
    },
    desired::inner,
    exit::Exit,
    kernel::{Kernel, TUNNEL},
    output::{self, Format, Row},
    schema,
    sources::SourceKind,
};

#[derive(JsonSchema, Serialize)]
pub(super) struct RouteItem {
    /// The pods' prefix.
    #[schemars(with = "Cidr")]
    cidr: Ipv4Net,
    /// The node's underlay address.
    node: Ipv4Addr,
    /// How packets get there: `ipip`; unencapsulated, `direct`; `local` for our own; `none` for a
    /// source-only prefix.
    #[schemars(extend("enum" = ["ipip", "direct", "local", "none"]))]
    encap: &'static str,
    /// Where the route was learnt: a source's name, `local` for our own, or `unknown`.
    #[schemars(extend("enum" = sources()))]
    source: &'static str,
    /// `active`, or `unreachable` while the kernel has no path to the node.
    #[schemars(extend("enum" = ["active", "unreachable"]))]
    state: &'static str,
    /// Since when it has been so, seconds; `null` for our own addresses.
    age_seconds: Option<u64>,
}

/// What the source of a route may be, by name.
fn sources() -> Vec<&'static str> {
    SourceKind::ALL.map(SourceKind::as_str).into_iter().chain(["local", "unknown"]).collect()
}

impl RouteItem {
    fn new(maps: &Maps, cidr: Ipv4Net, route: &Route) -> Self {
        let encap = if route.is_local() {
            "local"
        } else if route.is_destination() && route.is_direct() {
            "direct"
        } else if route.is_destination() {
            "ipip"
        } else {
            "none"
        };
        // The kernel sends what is direct, and obeys IPsec policies.
        let is_served =
            |node: &Node| !node.hop.ifindex.is_none() || route.is_direct() && node.is_protected();
        let reachable =
            route.is_local() || maps.nodes.get(route.node).is_ok_and(|(node, _)| is_served(&node));
        Self {
            cidr,
            node: route.node.into(),
            encap,
            source: match route.source {
                Route::SOURCE_LOCAL => "local",
                number => SourceKind::from_number(number).map_or("unknown", SourceKind::as_str),
            },
            state: if reachable { "active" } else { "unreachable" },
            age_seconds: (route.since != 0)
                .then(|| clock::monotonic().as_secs().saturating_sub(u64::from(route.since))),
        }
    }
}

impl Row for RouteItem {
    const COLUMNS: &'static [&'static str] = &["CIDR", "NODE", "ENCAP", "SOURCE", "STATE", "AGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cidr.to_string(),
            self.node.to_string(),
            self.encap.into(),
            self.source.into(),
            self.state.into(),
            self.age_seconds.map_or_else(|| "-".into(), output::age),
        ]
    }
}

/// Remote routes; our own pods are `endpoints list`.
pub fn list(maps: &Maps, format: Format) -> Result<Exit> {
    let mut items = Vec::new();
    for (cidr, route) in maps.all_routes()? {
        if !route.is_local() {
            items.push(RouteItem::new(maps, cidr, &route));
        }
    }
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

/// What [`get`] found.
#[derive(JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum Got<'a> {
    /// A route covers the address.
    Covered(&'a Answer),
    /// No route covers the address.
    Uncovered(Uncovered),
}

/// No route covers the address.
#[derive(JsonSchema, Serialize)]
#[schemars(inline)]
pub(super) struct Uncovered {
    /// The address that was asked for.
    ip: Ipv4Addr,
    /// Always false.
    #[schemars(extend("const" = false))]
    found: bool,
}

/// A route covers the address.
#[derive(JsonSchema, Serialize)]
#[schemars(inline)]
pub(super) struct Answer {
    /// The address that was asked for.
    ip: Ipv4Addr,
    /// Always true.
    #[schemars(extend("const" = true))]
    found: bool,
    #[serde(flatten)]
    route: RouteItem,
    /// Out of which interface; `null`: it is not known.
    interface: Option<String>,
    /// Largest inner packet, bytes; `null`: it is not known.
    mtu: Option<Mtu>,
    /// The next hop's MAC; `null`: it is not cached.
    #[schemars(extend("pattern" = schema::MAC))]
    next_hop_mac: Option<String>,
    /// What takes packets to this address past us; `null`: nothing.
    foreign_route: Option<PastUs>,
}

/// Where the kernel sends packets that should come to us.
#[derive(JsonSchema, Serialize)]
struct PastUs {
    /// The kernel's route; `null` if it is not in the main table, but in one that a rule
    /// leads to.
    #[schemars(with = "Option<Cidr>")]
    cidr: Option<Ipv4Net>,
    /// Where it leads, as `ip route` shows it.
    leads: String,
    /// For people.
    #[serde(skip)]
    text: String,
}

/// Where a packet to `ip` goes. The kernel is asked, too: a route of others may take it past us.
pub async fn get(pins: &Pins, maps: &Maps, format: Format, ip: Ipv4Addr) -> Result<Exit> {
    let Some((cidr, route)) = maps.route_to(ip)? else {
        let text = format!("no route covers {ip}: its packets are not ours");
        output::done(format, &Got::Uncovered(Uncovered { ip, found: false }), &text)?;
        return Ok(Exit::No);
    };
    let item = RouteItem::new(maps, cidr, &route);
    let node = maps.nodes.get(route.node).ok().map(|(node, _)| node);
    let node = node.filter(|node| !node.hop.ifindex.is_none());
    let interface = match (route.is_local(), node) {
        (true, _) => maps.endpoints.get(Ipv4Be::from(ip)).ok().map(|pod| pod.hop.ifindex),
        (false, node) => node.map(|node| node.hop.ifindex),
    };
    let answer = Answer {
        ip,
        found: true,
        route: item,
        interface: interface.map(super::interface_name),
        mtu: node.map(|node| inner(node.mtu)),
        next_hop_mac: node
            .filter(|node| node.hop.destination.is_known())
            .map(|node| node.hop.destination.to_string()),
        foreign_route: match route.is_destination() && !route.is_direct() && !route.is_local() {
            true => past_us(pins, maps, ip, (cidr, &route)).await?,
            false => None,
        },
    };
    output::object(format, &Got::Covered(&answer), || describe(&answer))?;
    if answer.foreign_route.is_some() {
        return Ok(Exit::No);
    }
    Ok(match (answer.route.encap, answer.route.state) {
        ("none", _) | (_, "unreachable") => Exit::No,
        _ => Exit::Ok,
    })
}

/// What takes packets to `ip` past us: a longer or better route in the main table, as `status`
/// and `routes diff` find it, or another table.
async fn past_us(
    pins: &Pins,
    maps: &Maps,
    ip: Ipv4Addr,
    (cidr, route): (Ipv4Net, &Route),
) -> Result<Option<PastUs>> {
    let kernel = Kernel::connect()?;
    let host = kernel.look().await?;
    let decided = State::read(pins).ok().flatten().and_then(|state| state.decided);
    let device = decided.map_or_else(|| TUNNEL.to_owned(), |decided| decided.tunnel.interface);
    let Some((tunnel, _)) = host.link(&device) else { return Ok(None) };
    let found = foreign_routes(&host, &maps.all_routes()?, Some(tunnel)).into_iter();
    let found = found.filter(|foreign| foreign.destination.contains(&ip));
    if let Some(foreign) = found.max_by_key(|foreign| foreign.destination.prefix_len()) {
        return Ok(Some(PastUs {
            cidr: Some(foreign.destination),
            text: format!("{foreign}; {}", foreign.remedy()),
            leads: foreign.leads,
        }));
    }
    let path = kernel.path(ip, None).await?;
    let node = Ipv4Addr::from(route.node);
    Ok(path.filter(|path| path.ifindex != tunnel && path.next_hop != node).map(|path| {
        let gateway = (path.next_hop != ip).then_some(path.next_hop);
        let leads = hop(&host, path.ifindex, gateway);
        let text = format!(
            "the kernel sends packets to {ip} {leads}, past tunless, though {cidr} leads over \
             {device}; `ip rule` shows which other table it asks"
        );
        PastUs { cidr: None, leads, text }
    }))
}

fn describe(answer: &Answer) -> String {
    let Answer { ip, route, interface, mtu, next_hop_mac, foreign_route, found: _ } = answer;
    let RouteItem { cidr, node, encap, source, state, .. } = route;
    let mut text = match *encap {
        "local" => format!("{ip} is an address of this node or of a pod here"),
        "direct" => format!(
            "{ip} is behind node {node}, plain as the kernel routes it ({cidr}, from {source}, {state})"
        ),
        "none" => format!("{ip} is only a source node {node} may use ({cidr})"),
        _ => format!("{ip} is behind node {node} ({cidr}, {encap}, from {source}, {state})"),
    };
    if let Some(interface) = interface {
        text += &format!("\n  dev {interface}");
    }
    if let Some(mtu) = mtu {
        text += &format!(" mtu {mtu}");
    }
    if let Some(mac) = next_hop_mac {
        text += &format!(" next hop {mac}");
    }
    if let Some(foreign) = foreign_route {
        text += &format!("\n  but {}", foreign.text);
    }
    text
}
