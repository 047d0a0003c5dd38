//! In which order the tables of routes change, in a round and in a step.
//!
//! Upserted from the maps outwards, deleted from the routes inwards: no packet is sent
//! to where it is not yet, or no longer, expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dataplane_common::Endpoint;
use ipnet::Ipv4Net;

use crate::{
    bpf::Maps,
    desired::RouteTables,
    tables::{
        Backstops, Endpoints, KernelRoutes, Keys, Masks, Nodes, Round, Routes, Surplus, with_going,
    },
};

/// Which entries of the maps are looked at.
#[derive(Clone, Copy)]
pub enum Extent<'a> {
    /// All, and those of local pods.
    Whole {
        /// Local pods.
        endpoints: &'a BTreeMap<Ipv4Addr, Endpoint>,
    },
    /// Those of a few prefixes and nodes.
    Only {
        /// The prefixes.
        prefixes: &'a BTreeSet<Ipv4Net>,
        /// The nodes.
        nodes: &'a BTreeSet<Ipv4Addr>,
    },
}

/// What the maps have too much.
pub struct InMaps {
    nodes: Surplus<Ipv4Addr>,
    endpoints: Surplus<Ipv4Addr>,
    masks: Surplus<u8>,
    routes: Surplus<Ipv4Net>,
}

impl InMaps {
    /// Upserts, what is pointed to before what points there. What leases hold and is no longer so is in
    /// `round` then, routes included that are still there and lead to a node that has changed.
    pub async fn upsert(
        maps: &mut Maps,
        desired: &RouteTables,
        extent: Extent<'_>,
        round: &mut Round,
    ) -> Self {
        let (prefixes, nodes) = match extent {
            Extent::Whole { .. } => (Keys::All, Keys::All),
            Extent::Only { prefixes, nodes } => (Keys::Only(prefixes), Keys::Only(nodes)),
        };
        // That of the default route is always there.
        let lengths = desired.routes.keys().map(Ipv4Net::prefix_len).filter(|length| *length > 0);
        let lengths = lengths.map(|length| (length, ())).collect();
        let in_maps = Self {
            nodes: round.upsert(&mut Nodes(maps, nodes), &desired.nodes).await,
            endpoints: match extent {
                Extent::Whole { endpoints } => {
                    round.upsert(&mut Endpoints(maps, Keys::All), endpoints).await
                }
                Extent::Only { .. } => Surplus::default(),
            },
            masks: match (round.upsert(&mut Masks(maps), &lengths).await, extent) {
                (surplus, Extent::Whole { .. }) => surplus,
                // Others have them.
                (_, Extent::Only { .. }) => Surplus::default(),
            },
            routes: round.upsert(&mut Routes(maps, prefixes), &desired.routes).await,
        };
        with_going(&mut round.outdated, in_maps.routes.outdated());
        in_maps
    }

    /// Whether this node is known for now, though not for long.
    pub fn has_node(&self, node: Ipv4Addr) -> bool {
        self.nodes.contains(&node)
    }

    /// The other way round.
    pub async fn delete(self, maps: &mut Maps, round: &mut Round) {
        let Self { nodes, endpoints, masks, routes } = self;
        round.delete(&mut Routes(maps, Keys::All), routes).await;
        round.delete(&mut Masks(maps), masks).await;
        round.delete(&mut Endpoints(maps, Keys::All), endpoints).await;
        round.delete(&mut Nodes(maps, Keys::All), nodes).await;
    }
}

/// What the kernel's main table has too much of ours.
pub struct InKernel<'a> {
    routes: KernelRoutes<'a>,
    old_routes: Surplus<Ipv4Net>,
    backstops: Backstops<'a>,
    old_backstops: Surplus<Ipv4Net>,
}

impl<'a> InKernel<'a> {
    /// Upserts routes, and what stands behind them.
    pub async fn upsert(
        mut routes: KernelRoutes<'a>,
        mut backstops: Backstops<'a>,
        desired: &RouteTables,
        round: &mut Round,
    ) -> Self {
        let old_routes = round.upsert(&mut routes, &desired.kernel_routes).await;
        // Behind their routes, or packets would find only them for a moment.
        let old_backstops = round.upsert(&mut backstops, &desired.backstops()).await;
        Self { routes, old_routes, backstops, old_backstops }
    }

    /// Deletes the routes first; but see [`RouteTables::is_direct`].
    pub async fn delete(mut self, desired: &RouteTables, round: &mut Round) {
        let direct = self.old_backstops.take(|prefix| desired.is_direct(prefix));
        round.delete(&mut self.backstops, direct).await;
        round.delete(&mut self.routes, self.old_routes).await;
        round.delete(&mut self.backstops, self.old_backstops).await;
    }
}
