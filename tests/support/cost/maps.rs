//! What the maps hold while programs are measured.

use std::net::Ipv4Addr;

use super::super::{
    prog::Loaded,
    world::{
        self, Entry, MTU, NEXT_HOP_MAC, NIC_IF, NIC_MAC, NODE1, NODE2, POD, POD_IF, POD_MAC,
        REMOTE, TUNNEL_ADDRESS, endpoint, flow, hop, route, way_to_pod,
    },
};
use dataplane_common::{Direction, Mtu, Node, Route, Settings, layout::DEFAULT_LEASES};

/// Blocks as long as Calico's, from this one on.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const BLOCK: u8 = 26;

/// How full maps are.
#[derive(Clone, Copy)]
pub struct Filled {
    /// Entries of the map of routes.
    pub routes: u32,
    /// Whether the table of leases is full.
    pub leases_full: bool,
}

impl Filled {
    /// All that is compared: leases only where somebody asks for them.
    pub fn all(fastpath: u8) -> Vec<Self> {
        let by_routes =
            [10, 1_000, 100_000].map(|routes| Self { routes, leases_full: false }).to_vec();
        let by_leases = (fastpath == Settings::VERIFIED)
            .then_some(Self { routes: 10, leases_full: true })
            .into_iter();
        by_routes.into_iter().chain(by_leases).collect()
    }

    /// Adds to [`entries`].
    pub fn fill(self, loaded: &mut Loaded) {
        let there = entries().iter().filter(|entry| matches!(entry, Entry::Route(..))).count();
        let blocks = (u32::from(FIRST)..).step_by(1 << (32 - BLOCK)).map(Ipv4Addr::from);
        let others = blocks.filter(|block| *block != block_of(REMOTE) && *block != block_of(POD));
        // The way to those measured is then as long as it gets.
        for block in others.take(self.routes as usize - there) {
            loaded.add(&route(block, BLOCK, NODE2, Route::default().flags));
        }
        if self.leases_full {
            for source in (u32::from(FIRST)..).map(Ipv4Addr::from).take(DEFAULT_LEASES) {
                let flow = flow(Direction::Decap, 6, (source, 1000), (POD, 80));
                loaded.add(&Entry::Lease(flow, world::lease(&flow, NODE2, way_to_pod())));
            }
        }
    }
}

/// A pod here, a block of another node with a way to it whose MAC is known.
pub fn entries() -> Vec<Entry> {
    vec![
        route(block_of(REMOTE), BLOCK, NODE2, 0),
        route(TUNNEL_ADDRESS, 32, NODE1, Route::LOCAL),
        route(POD, 32, NODE1, Route::LOCAL),
        Entry::Node(NODE2, way_out()),
        endpoint(POD, POD_IF, POD_MAC),
    ]
}

/// The way to [`NODE2`].
pub fn way_out() -> Node {
    Node { hop: hop(NIC_IF, NEXT_HOP_MAC, NIC_MAC), mtu: Mtu(MTU) }
}

fn block_of(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - BLOCK)))
}
