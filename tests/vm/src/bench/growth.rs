//! What a packet costs more where there are many routes.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use dataplane_common::{Ipv4Be, Prefix, PrefixRoute, Route};
use tunless_lab::Node;

use super::{ENDPOINTS, set, udp};
use crate::suites::Guest;

/// How many routes are compared.
const ROUTES: [u32; 2] = [10, 100_000];
/// Blocks as long as Calico's, from this one on.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const BLOCK: u8 = 26;
/// Of `bpf(2)`: only where there is none.
const NO_EXIST: u64 = 1;

/// One flow, with few routes in each node's map and with many.
pub fn measure(guest: &Guest) -> Result<()> {
    let mut stage = set(guest, ENDPOINTS[1])?;
    udp::warm_up(&stage)?;
    // They would take out again what nobody has told them of. Of the pods, which they
    // have seen by now, they need not tell the programs anything any more.
    stage.stop_daemons()?;
    for routes in ROUTES {
        for node in stage.lab.nodes() {
            fill(node, routes).with_context(|| format!("{}: {routes} routes", node.label))?;
        }
        udp::measure_with_routes(&stage, &guest.figures, routes)?;
    }
    stage.clear()
}

/// Routes to blocks side by side, those of the lab's pods among them and left as they are.
/// All are as long as these, so that nothing else has to be looked for.
fn fill(node: &Node, routes: u32) -> Result<()> {
    let mut map = open(node)?;
    let before = map.keys().collect::<Result<Vec<_>, _>>()?;
    let (mut there, other) = (before.len(), Route { node: node.ip.into(), ..Route::default() });
    let blocks = (u32::from(FIRST)..).step_by(1 << (32 - BLOCK)).map(Ipv4Addr::from);
    for prefix in blocks.map(|block| Prefix::new(Ipv4Be::from(block), BLOCK)) {
        if there >= routes as usize {
            break;
        }
        if !before.contains(&prefix) {
            map.insert(prefix, PrefixRoute { prefix, route: other }, NO_EXIST)?;
            there += 1;
        }
    }
    Ok(())
}

/// By its pin, which is in the directory of the maps' version.
fn open(node: &Node) -> Result<HashMap<MapData, Prefix, PrefixRoute>> {
    for entry in fs::read_dir(&node.bpffs)? {
        let pin = entry?.path().join("ROUTES");
        if pin.exists() {
            return Ok(Map::HashMap(MapData::from_pin(&pin)?).try_into()?);
        }
    }
    anyhow::bail!("no map of routes below {}", node.bpffs.display())
}
