//! One look at everything, nothing touched: what a daemon that has just asked all
//! its sources would change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane_common::Route;
use ipnet::Ipv4Net;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{
    apply::{memory, serving},
    decide::{Decider, Decision, NodeAddress, handovers::GivenUp},
    observe::{Observer, foreign},
    start,
    weigh::weigh,
};
use crate::{
    bpf::{Maps, Pins},
    config::{Cidr, ConfigFile},
    desired::{Facts, RouteTables, TunnelMode},
    kernel::{Host, Kernel, TUNNEL, TunnelRoute},
    sources::{Me, SourceKind, hub::Hub, status::State, table::RouteTable},
    tables::KernelRoutes,
};

/// What was found.
pub struct Survey {
    /// Where sources, maps and kernel are not of one mind.
    pub differences: Vec<Difference>,
    /// Sources that did not answer in time, and why.
    pub silent: Vec<String>,
    /// Claims that make no route, or not the one they ask for.
    pub alarms: Vec<String>,
}

/// Something that is not as it should be.
#[derive(JsonSchema, Serialize)]
pub struct Difference {
    /// The prefix.
    #[schemars(with = "Cidr")]
    pub cidr: Ipv4Net,
    /// Where it differs: `map`, `kernel`, or the name of a source.
    pub place: String,
    /// What the sources together come to.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

/// Asks every source, waits at most `timeout` for their answers, and compares.
///
/// # Errors
/// If the configuration is refused, or there are no maps to compare with.
pub async fn survey(config: &Path, bpffs: Option<&Path>, timeout: Duration) -> Result<Survey> {
    let mut file = ConfigFile::read(config)?;
    if let Some(directory) = bpffs {
        directory.clone_into(&mut file.config.bpffs.0);
    }
    let pins = Pins::new(file.config.bpffs.as_ref());
    let maps = Maps::open(&pins).with_context(|| {
        format!(
            "tunless is not attached on this node: no pinned maps of this version in {}; start \
             the daemon first",
            pins.root().display()
        )
    })?;
    let remembered = memory::read(&pins)?;
    let mut observer = Observer::new(Kernel::connect()?);
    observer.look().await?;
    let node = start::check_host(observer.kernel(), observer.host(), &file, &remembered).await?;
    let address = remembered.node.or(node);
    let mut decider = Decider::new(file, remembered, serving::routes(&pins)?);
    hear(&mut decider, address, timeout).await;
    let decision = decide(&mut observer, &mut decider).await?;
    let (host, tables) = (observer.host(), &decision.desired.tables);
    let mut differences = compare_sources(decider.table());
    differences.extend(compare_maps(tables, &maps)?);
    differences.extend(match decision.facts.mode {
        TunnelMode::Replace => compare_kernel(tables, host, &maps),
        TunnelMode::Accelerate => compare_tunl0(tables, &decision.facts),
    });
    differences.extend(compare_foreign(tables, host, decision.facts.mode));
    Ok(Survey {
        differences,
        silent: silent(&decider),
        alarms: decider.table().alarms().values().cloned().collect(),
    })
}

/// Runs the sources until each has reported, at most for `timeout`. `address`: ours, if known.
pub(super) async fn hear(decider: &mut Decider, address: Option<NodeAddress>, timeout: Duration) {
    let config = &decider.file().config;
    let name = config.node.name.clone().unwrap_or_else(start::host_name);
    let me = Me { name, address: address.map(|node| node.address) };
    let (mut hub, mut reports) = Hub::new();
    hub.run(&config.sources, &me);
    let deadline = Instant::now() + timeout;
    while !has_heard_all(decider) {
        let Ok(Some((kind, report))) = timeout_at(deadline, reports.recv()).await else { break };
        decider.take(kind, report);
    }
}

/// Observes and decides as the daemon does. There is no applier, so nothing is changed.
async fn decide(observer: &mut Observer, decider: &mut Decider) -> Result<Decision> {
    const NO_ADDRESS: &str = "this node has no underlay address; set node.address";
    observer.look().await?;
    weigh(observer, decider).await?.context(NO_ADDRESS)?;
    let decision = decider.decide(observer.host(), observer.paths(), None, &GivenUp::new());
    decision.cloned().context("the tunnel device is missing, so there is nothing to compare with")
}

/// Whether every source has reported what it knows, or why it does not.
fn has_heard_all(decider: &Decider) -> bool {
    decider.claims().status().iter().all(|source| {
        source.source == SourceKind::Kernel
            || source.state != State::Waiting
            || source.reason.is_some()
    })
}

fn silent(decider: &Decider) -> Vec<String> {
    let states = decider.claims().status();
    let silent = states.iter().filter(|source| source.state != State::Synced);
    silent
        .map(|source| {
            let why = source.reason.as_deref().unwrap_or("no answer in time");
            format!("source {}: {why}", source.source)
        })
        .collect()
}

/// Kernel routes of others that take packets past us.
fn compare_foreign(tables: &RouteTables, host: &Host, mode: TunnelMode) -> Vec<Difference> {
    let tunnel = host.link(mode.device()).map(|(ifindex, _)| ifindex);
    let foreign = foreign::foreign_routes(host, &tables.routes, tunnel).into_iter();
    let difference = |foreign: foreign::Foreign| Difference {
        cidr: foreign.destination,
        place: "kernel".to_owned(),
        wanted: format!("as {}", foreign.ours),
        found: foreign.leads,
    };
    foreign.map(difference).collect()
}

/// Sources that name another node than the one chosen.
fn compare_sources(table: &RouteTable) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (cidr, route) in table.routes() {
        for (kind, origin, claim) in table.claims_to(*cidr) {
            if claim.node != route.node {
                differences.push(Difference {
                    cidr: *cidr,
                    place: kind.to_string(),
                    wanted: format!("{} (from {})", route.node, route.source),
                    found: format!("{} ({origin})", claim.node),
                });
            }
        }
    }
    differences
}

fn compare_maps(tables: &RouteTables, maps: &Maps) -> Result<Vec<Difference>> {
    let mut actual = maps.all_routes()?;
    actual.retain(|_, route| !route.is_local());
    let mut wanted = tables.routes.clone();
    wanted.retain(|_, route| !route.is_local());
    let same = |a: &Route, b: &Route| !a.differs(b);
    Ok(differences("map", &wanted, &actual, same, describe))
}

fn compare_kernel(tables: &RouteTables, host: &Host, maps: &Maps) -> Vec<Difference> {
    let is_node = |node: Ipv4Addr| maps.nodes.get(node.into()).is_ok();
    let actual = KernelRoutes::ours(host, is_node);
    differences("kernel", &tables.kernel_routes, &actual, PartialEq::eq, |route| {
        let TunnelRoute { gateway, mtu, .. } = route;
        let way = gateway.map_or_else(|| format!("dev {TUNNEL}"), |node| format!("via {node}"));
        mtu.map_or_else(|| way.clone(), |mtu| format!("{way} mtu {mtu}"))
    })
}

/// Beside tunl0 the kernel's routes are others', and should say the same.
fn compare_tunl0(tables: &RouteTables, facts: &Facts) -> Vec<Difference> {
    let wrapped = tables.routes.iter().filter(|(_, route)| route.is_destination());
    let wrapped = wrapped.filter(|(_, route)| !route.is_direct());
    let wanted: BTreeMap<Ipv4Net, Ipv4Addr> =
        wrapped.map(|(cidr, route)| (*cidr, route.node.into())).collect();
    differences("kernel", &wanted, &facts.tunl0_routes, PartialEq::eq, |node| {
        format!("via {node} dev tunl0")
    })
}

fn describe(route: &Route) -> String {
    let node = Ipv4Addr::from(route.node);
    match (route.is_destination(), route.is_direct()) {
        (false, _) => format!("{node}, source only"),
        (true, true) => format!("{node}, direct"),
        (true, false) => format!("{node}, ipip"),
    }
}

fn differences<T>(
    place: &str,
    wanted: &BTreeMap<Ipv4Net, T>,
    found: &BTreeMap<Ipv4Net, T>,
    same: impl Fn(&T, &T) -> bool,
    describe: impl Fn(&T) -> String,
) -> Vec<Difference> {
    let shown = |entry: Option<&T>| entry.map_or_else(|| "-".to_owned(), &describe);
    let prefixes: BTreeSet<&Ipv4Net> = wanted.keys().chain(found.keys()).collect();
    let differ = prefixes.into_iter().filter(|cidr| match (wanted.get(cidr), found.get(cidr)) {
        (Some(wanted), Some(found)) => !same(wanted, found),
        _ => true,
    });
    differ
        .map(|cidr| Difference {
            cidr: *cidr,
            place: place.to_owned(),
            wanted: shown(wanted.get(cidr)),
            found: shown(found.get(cidr)),
        })
        .collect()
}
