//! What the daemon would do with a file on this host, and what would be wrong then.
//!
//! It observes and decides as the daemon does, and has no applier: nothing is changed. The
//! tunnel device need not exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{IfIndex, Mtu};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    apply::{memory, serving},
    decide::{Basis, Decider, own_node, problems, undecided},
    observe::{
        Observer,
        fitness::{self, Depth},
        foreign::foreign_routes,
        limits, outer_rules,
    },
    report::{Problem, Ways, forwarding},
    start, survey,
    weigh::weigh,
};
use crate::{
    bpf::{Pins, foreign::Reader},
    config::{ConfigFile, Fastpath},
    desired::{Facts, Inputs, RouteTables, TunnelMode},
    kernel::{Host, Kernel},
    sources::{SourceKind, reads::Reads, status::SourcesStatus},
};

/// How long sources may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon would do.
#[derive(JsonSchema, Serialize)]
pub struct Preview {
    /// This node's underlay address; `null`: nothing names one.
    pub node: Option<Ipv4Addr>,
    /// Why that one, for people; `null` where `node` is.
    pub node_ground: Option<&'static str>,
    /// With tunl0 or without; `null`: it cannot be decided yet.
    pub mode: Option<TunnelMode>,
    /// Why, for people; `null` where `mode` is.
    pub mode_ground: Option<&'static str>,
    /// The fast path.
    pub fastpath: Fastpath,
    /// The tunnel device's address; `null`: it would have none.
    pub tunnel_address: Option<Ipv4Addr>,
    /// The tunnel device's MTU, bytes; `null` where `mode` is.
    pub tunnel_mtu: Option<Mtu>,
    /// How closely the datastores are followed, as far as they have answered.
    pub reads: BTreeMap<SourceKind, Reads>,
    /// How many routes all sources come to.
    pub routes: usize,
    /// How many local pods there are.
    pub endpoints: usize,
    /// What `tunless status` would list, the gravest first.
    pub problems: Vec<Problem>,
}

/// Checks a file by this host, as the daemon would at its start, and says what it would do.
///
/// # Errors
/// If the file does not fit the host, or the kernel cannot be asked.
pub async fn preview(file: ConfigFile) -> Result<Preview> {
    let pins = Pins::new(file.config.bpffs.as_ref());
    pins.check_place()?;
    let mut observer = Observer::new(Kernel::connect()?);
    let memory = memory::read(&pins).unwrap_or_default();
    observer.look().await?;
    let (kernel, host) = (observer.kernel(), observer.host());
    let node = start::check_host(kernel, host, &file, &memory).await?;
    let address = memory.node.or(node);
    fitness::judge(kernel, host, &pins, &file, &mut Reader::default(), Depth::Whole).await?;
    let fastpath = file.config.fastpath;
    let active = serving::routes(&pins);
    let unreadable = active.as_ref().err().map(|error| serving::unreadable(&pins, error));
    let mut decider = Decider::new(file, memory, active.unwrap_or_default());
    survey::hear(&mut decider, address, PATIENCE).await;
    observer.look().await?;
    weigh(&mut observer, &mut decider).await?;
    if fastpath == Fastpath::Verified {
        let interfaces = limits::interfaces(&decider.file().config, observer.host());
        decider.set_limits(limits::look(observer.kernel(), interfaces).await);
    }
    let (host, paths) = (observer.host(), observer.paths());
    let basis = decider.basis(host, paths);
    if let Some(Basis { facts, .. }) = &basis {
        let (nodes, links) = (decider.table().nodes().collect(), facts.receiving_names(host));
        decider.set_outer_rules(outer_rules::look(observer.kernel(), &nodes, &links).await);
    }
    decider.memory_mut().node = basis.as_ref().map(|basis| basis.node);
    let status = SourcesStatus::new(decider.claims().status(), decider.table().alarms().values());
    let mut found = problems::sources(&status);
    found.extend(unreadable);
    match &basis {
        None => {
            found.push(undecided::problem(&decider, host, &decider.file().path));
            let own = decider.own_nodes();
            found.extend(own_node::problems(&own, &decider.file().config, host, None));
        }
        Some(Basis { mode, facts, .. }) => {
            let tunnel = mode.mode.find(host).map(|(ifindex, _)| ifindex);
            let config = &decider.file().config;
            let inputs = Inputs { config, host, paths, facts, tunnel: tunnel.unwrap_or_default() };
            let tables = RouteTables::whole(inputs, decider.table().routes());
            if tunnel.is_none() && mode.mode == TunnelMode::Accelerate {
                found.push(undecided::problem(&decider, host, &decider.file().path));
            }
            found.extend(problems::ground(&decider, *mode, facts, host));
            found.extend(problems::tables(&tables));
            found.extend(not_forwarded(facts, host, tunnel, &tables));
            let foreign = foreign_routes(host, &tables.routes, tunnel);
            found.extend(foreign.iter().map(Problem::from));
        }
    }
    found.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let facts = basis.as_ref().map(|basis| &basis.facts);
    Ok(Preview {
        node: basis.as_ref().map(|basis| basis.node.address),
        node_ground: basis.as_ref().map(|basis| basis.node.ground.as_str()),
        mode: basis.as_ref().map(|basis| basis.mode.mode),
        mode_ground: basis.as_ref().map(|basis| basis.mode.ground.as_str()),
        fastpath,
        tunnel_address: facts.and_then(|facts| facts.tunnel.address),
        tunnel_mtu: facts.map(|facts| facts.tunnel.mtu),
        reads: status.sources.iter().filter_map(|it| Some((it.source, it.reads?))).collect(),
        routes: decider.table().routes().len(),
        endpoints: facts.map_or(0, |facts| facts.pods.len()),
        problems: found,
    })
}

/// Interfaces whose packets the kernel does not forward. `tunnel`: the device's index, if it is
/// there; one that is made gets `net.ipv4.conf.default`.
fn not_forwarded(
    facts: &Facts,
    host: &Host,
    tunnel: Option<IfIndex>,
    tables: &RouteTables,
) -> Vec<Problem> {
    let mut off = host.not_forwarding();
    if tunnel.is_none() && !is_default_on() {
        off.insert(IfIndex::NONE);
    }
    let names = host.links.iter().map(|(index, link)| (*index, link.name.clone())).collect();
    let ways = Ways {
        device: facts.mode.device(),
        tunnel: tunnel.unwrap_or_default(),
        pods: &facts.pods.values().map(|pod| pod.hop.ifindex).collect(),
        plain_underlay: if tables.has_direct() { &facts.underlay } else { &BTreeSet::new() },
    };
    forwarding(ways, &off, &names)
}

/// Whether a new interface forwards.
fn is_default_on() -> bool {
    let value = fs::read_to_string("/proc/sys/net/ipv4/conf/default/forwarding");
    value.map_or(true, |value| value.trim() != "0")
}
