//! The small cluster every table is about: who has which address, and what the
//! daemon would have written into the maps of node 1.

use std::{net::Ipv4Addr, time::Duration};

use dataplane_common::{
    Arrival, Direction, Endpoint, EpochSlots, Epochs, Flow, Hop, IfIndex, Ipv4Be, Lease, LinkState,
    Mtu, Node, NodeIndex, Route, Settings, Translation, epochs::SLOTS, layout::MAX_NODES,
};

use super::packet::{Frame, Mac, eth};

/// Our node.
pub const NODE1: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);
/// A node whose next hop the kernel has to resolve.
pub const NODE2: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);
/// A node whose next hop's MAC is known, behind a smaller MTU.
pub const NODE3: Ipv4Addr = Ipv4Addr::new(172, 16, 34, 7);
/// A node nobody has a route to.
pub const NODE_AWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 33, 9);
/// A node that routes name but `NODES` lacks: no such node, as far as we know.
pub const NODE_UNKNOWN: Ipv4Addr = Ipv4Addr::new(172, 16, 32, 1);
/// A node that IPsec protects.
pub const NODE_PROTECTED: Ipv4Addr = Ipv4Addr::new(172, 16, 31, 8);

/// Our pod, on [`POD_IF`].
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 215);
/// Another pod of ours, on another interface.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 216);
/// A third, whose MAC nobody has learnt yet.
pub const YOUNG_POD: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 217);
/// Our tunnel device's address.
pub const TUNNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 192);

/// A pod of [`NODE2`].
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 31);
/// A pod of [`NODE3`].
pub const REMOTE3: Ipv4Addr = Ipv4Addr::new(10, 20, 43, 31);
/// An address of [`NODE2`]'s block that [`NODE3`] borrowed.
pub const BORROWED: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 5);
/// A pod of [`NODE_AWAY`].
pub const REMOTE_AWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 44, 31);
/// A pod of node 2 whose packets travel plain.
pub const REMOTE_DIRECT: Ipv4Addr = Ipv4Addr::new(10, 20, 46, 31);
/// A pod of [`NODE_UNKNOWN`].
pub const REMOTE_UNKNOWN: Ipv4Addr = Ipv4Addr::new(10, 20, 45, 31);
/// A pod of [`NODE_PROTECTED`], whose packets travel without encapsulation.
pub const REMOTE_PROTECTED: Ipv4Addr = Ipv4Addr::new(10, 20, 47, 31);
/// Accepted from [`NODE2`] as a source, never a destination.
pub const EXTRA_SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
/// A Service, whose packets go to [`REMOTE`]. No route covers it.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
/// No route covers this one.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

/// The underlay NIC. All indexes are clear of the devices some kernels put
/// into every new namespace (`tunl0`, `sit0`).
pub const NIC_IF: u32 = 102;
/// What an XDP test run takes for the interface: `lo` (`net/bpf/test_run.c`).
pub const TEST_RUN_IF: u32 = 1;
/// The other end of [`NIC_IF`].
pub const WIRE_IF: u32 = 103;
/// The pod's interface on the host.
pub const POD_IF: u32 = 104;
/// The tunnel device.
pub const TUNNEL_IF: u32 = 106;
/// The other end of [`TUNNEL_IF`].
pub const DROP_IF: u32 = 107;
/// The neighbour pod's interface; no such device is needed.
pub const NEIGHBOUR_IF: u32 = 140;

/// MAC of [`NIC_IF`].
pub const NIC_MAC: Mac = [0x02, 0, 0, 0, 0, 0x02];
/// MAC of the router on the underlay.
pub const ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x03];
/// MAC of [`POD_IF`].
pub const HOST_MAC: Mac = [0x02, 0, 0, 0, 0, 0x04];
/// MAC of the pod's own interface.
pub const POD_MAC: Mac = [0x02, 0, 0, 0, 0, 0x05];
/// MAC of [`TUNNEL_IF`].
pub const TUNNEL_MAC: Mac = [0x02, 0, 0, 0, 0, 0x06];
/// MAC of the next hop towards [`NODE3`].
pub const NEXT_HOP_MAC: Mac = [0x02, 0, 0, 0, 0, 0x33];
/// MAC of nobody here.
pub const OTHER_MAC: Mac = [0x02, 0, 0, 0, 0, 0x99];

/// How long leases are granted for, ns.
pub const LEASE: u64 = 5_000_000_000;
/// Netfilter's bit.
pub const MARK: u32 = 0x1000;
/// Netfilter's bit for flows that it translates for a Service.
pub const SERVICE_MARK: u32 = 0x0800;
/// Netfilter's bits for UDP flows that get no answer.
pub const UNANSWERED_MARK: u32 = MARK | SERVICE_MARK;
/// For how long a revoked Service lease is not granted again, ms: not before the test is over.
pub const REST: u32 = 24 * 3600 * 1000;
/// What only our programs know.
pub const SECRET: u32 = 0x736c_6e74;

/// Source MAC of what XDP has unwrapped: two fixed bytes, then the halves of [`SECRET`].
pub const HANDOVER_MAC: Mac = {
    let (high, low) = ((SECRET >> 16) as u16, SECRET as u16);
    let ([a, b], [c, d]) = (high.to_ne_bytes(), low.to_ne_bytes());
    [0x02, 0x54, a, b, c, d]
};

/// MTU towards [`NODE2`].
pub const MTU: u32 = 1500;
/// MTU of the interfaces themselves.
pub const JUMBO: u32 = 9000;
/// MTU towards [`NODE3`].
pub const SMALL_MTU: u32 = 1300;

/// `EPOCH`, when a table starts.
pub const EPOCHS: Epochs = Epochs { all: 4, remote: [2; SLOTS], local: [1; SLOTS] };
/// What good leases bear then.
pub const EPOCH: u32 = 7;
/// The low bits of [`Lease::expires`], in which programs sign for whom they write it. Tests see them
/// as zeros where the signature is right.
pub const SIGNATURE: u64 = (1 << 20) - 1;
/// In [`Lease::expires`]: not before the test is over.
pub const LATER: u64 = i64::MAX as u64 & !SIGNATURE;
/// In [`Lease::expires`]: long before the test began.
pub const OVER: u64 = SIGNATURE + 1;
/// In [`Lease::expires`]: revoked at the very tick at which it is written.
pub const REVOKED: u64 = 1 << 63;
/// In [`Lease::expires`]: at the very tick of the clock at which
/// [`super::prog::Loaded::add`] writes it.
pub const NOW: u64 = 0;
/// What a lease has counted before a row begins: neither zero nor alike.
pub const PACKETS: u64 = 3;
/// Their bytes.
pub const BYTES: u64 = 4000;

/// What ends a lease of a flow between [`POD`] and [`REMOTE`].
pub const ENDS: [(&str, Entry); 3] = [
    ("whose remote pod's epoch was raised", Entry::RaisedRemote(REMOTE)),
    ("whose remote block's epoch was raised", Entry::RaisedRemote(Ipv4Addr::new(10, 20, 42, 63))),
    ("whose local pod's epoch was raised", Entry::RaisedLocal(POD)),
];
/// What does not.
pub const LEAVES: [(&str, Entry); 5] = [
    ("beside another block", Entry::RaisedRemote(Ipv4Addr::new(10, 20, 42, 64))),
    ("beside another node's pod", Entry::RaisedRemote(REMOTE3)),
    ("beside another local pod", Entry::RaisedLocal(NEIGHBOUR)),
    ("whose local pod's address is remote, too", Entry::RaisedRemote(POD)),
    ("whose remote pod's address is local, too", Entry::RaisedLocal(REMOTE)),
];

/// Hand-overs arrive, whenever they are looked at.
pub const PROVEN: LinkState =
    LinkState { phase: LinkState::PROVEN, seen: LATER, ..LinkState::new(IfIndex(NIC_IF)) };

/// One line of a map.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// In `ROUTES`: prefix, length, value.
    Route(Ipv4Addr, u8, Route),
    /// In `NODES`, with [`node_index`].
    Node(Ipv4Addr, Node),
    /// In `ENDPOINTS`.
    Endpoint(Ipv4Addr, Endpoint),
    /// In `KEPT_AT`: the daemon has compared everything so long ago; without it, just now.
    Kept(Duration),
    /// In `TRY`: when it is over, `CLOCK_MONOTONIC` in nanoseconds; 0 without it.
    TryEnds(u64),
    /// In `EPOCH`: those of this remote address are raised.
    RaisedRemote(Ipv4Addr),
    /// In `EPOCH`: those of this local pod are raised.
    RaisedLocal(Ipv4Addr),
    /// In `SEEN`, under this tag.
    Seen(u16, Arrival),
    /// In `LEASES`; for [`Lease::expires`] see [`LATER`] and [`NOW`]. It is signed for the flow when
    /// it is written.
    Lease(Flow, Lease),
}

impl Entry {
    /// Raises what it is to raise.
    pub fn raise(&self, epochs: &mut Epochs) {
        match *self {
            Self::RaisedRemote(address) => {
                epochs.remote[usize::from(EpochSlots::remote(address.into()))] += 1;
            }
            Self::RaisedLocal(pod) => epochs.local[usize::from(EpochSlots::local(pod.into()))] += 1,
            _ => {}
        }
    }
}

/// A flow of `protocol`; the ports as a person says them.
#[must_use]
pub fn flow(
    direction: Direction,
    protocol: u8,
    (source, source_port): (Ipv4Addr, u16),
    (destination, destination_port): (Ipv4Addr, u16),
) -> Flow {
    Flow {
        source: source.into(),
        destination: destination.into(),
        source_port: source_port.to_be(),
        destination_port: destination_port.to_be(),
        protocol,
        direction: direction as u8,
        reserved: 0,
    }
}

/// An interface and the MACs of frames out of it.
#[must_use]
pub fn hop(ifindex: u32, destination: Mac, source: Mac) -> Hop {
    Hop { ifindex: IfIndex(ifindex), destination: destination.into(), source: source.into() }
}

/// The way to [`NODE3`].
#[must_use]
pub fn way_to_node3() -> Node {
    Node { hop: hop(NIC_IF, NEXT_HOP_MAC, NIC_MAC), mtu: Mtu(SMALL_MTU) }
}

/// The way to [`NODE2`].
#[must_use]
pub fn way_to_node2() -> Node {
    Node { hop: hop(NIC_IF, [0; 6], NIC_MAC), mtu: Mtu(MTU) }
}

/// The way into [`POD`].
#[must_use]
pub fn way_to_pod() -> Node {
    Node { hop: hop(POD_IF, POD_MAC, HOST_MAC), mtu: Mtu(0) }
}

/// Where a node is counted.
#[must_use]
pub fn node_index(node: Ipv4Addr) -> NodeIndex {
    NodeIndex(u32::from(node) % MAX_NODES as u32)
}

/// A good lease of `flow`, between our pod and one of `node`'s, with something counted.
#[must_use]
pub fn lease(flow: &Flow, node: Ipv4Addr, way: Node) -> Lease {
    Lease {
        flow: *flow,
        slots: EpochSlots::of_lease(flow, &Translation::NONE),
        epoch: EPOCH,
        expires: LATER,
        packets: PACKETS,
        bytes: BYTES,
        node: Ipv4Be::from(node),
        endpoint: IfIndex(POD_IF),
        hop: way.hop,
        mtu: way.mtu,
        translation: Translation::NONE,
        index: node_index(node),
    }
}

/// The lease, but its packets go another way.
#[must_use]
pub fn going(way: Node, lease: Lease) -> Lease {
    Lease { hop: way.hop, mtu: way.mtu, ..lease }
}

/// A route to a node's pods.
#[must_use]
pub fn route(prefix: Ipv4Addr, length: u8, node: Ipv4Addr, flags: u16) -> Entry {
    Entry::Route(
        prefix,
        length,
        Route { node: node.into(), since: 0, flags, source: Route::SOURCE_FILE },
    )
}

/// A node whose next hop's MAC is not known.
#[must_use]
pub fn node(address: Ipv4Addr, ifindex: u32, mtu: u32) -> Entry {
    Entry::Node(address, Node { hop: hop(ifindex, [0; 6], NIC_MAC), mtu: Mtu(mtu) })
}

/// A local pod on `ifindex`.
#[must_use]
pub fn endpoint(address: Ipv4Addr, ifindex: u32, pod: Mac) -> Entry {
    Entry::Endpoint(address, Endpoint { hop: hop(ifindex, pod, HOST_MAC) })
}

/// What the maps hold when a table starts.
#[must_use]
pub fn entries() -> Vec<Entry> {
    vec![
        route(Ipv4Addr::new(10, 20, 42, 0), 26, NODE2, 0),
        route(Ipv4Addr::new(10, 20, 43, 0), 26, NODE3, 0),
        route(Ipv4Addr::new(10, 20, 44, 0), 26, NODE_AWAY, 0),
        route(Ipv4Addr::new(10, 20, 45, 0), 26, NODE_UNKNOWN, 0),
        route(BORROWED, 32, NODE3, 0),
        route(EXTRA_SOURCE, 32, NODE2, Route::SOURCE_ONLY),
        route(Ipv4Addr::new(10, 20, 46, 0), 26, NODE2, Route::DIRECT),
        route(Ipv4Addr::new(10, 20, 47, 0), 26, NODE_PROTECTED, Route::DIRECT),
        // Martian sources must not depend on there being no route.
        route(Ipv4Addr::new(127, 0, 0, 0), 8, NODE2, Route::SOURCE_ONLY),
        route(Ipv4Addr::new(224, 0, 0, 0), 3, NODE2, Route::SOURCE_ONLY),
        route(NODE1, 32, NODE1, Route::LOCAL),
        route(TUNNEL_ADDRESS, 32, NODE1, Route::LOCAL),
        route(POD, 32, NODE1, Route::LOCAL),
        route(NEIGHBOUR, 32, NODE1, Route::LOCAL),
        route(YOUNG_POD, 32, NODE1, Route::LOCAL),
        node(NODE2, NIC_IF, MTU),
        Entry::Node(NODE3, way_to_node3()),
        node(NODE_AWAY, 0, MTU),
        Entry::Node(NODE_PROTECTED, Node::PROTECTED),
        endpoint(POD, POD_IF, POD_MAC),
        endpoint(NEIGHBOUR, NEIGHBOUR_IF, OTHER_MAC),
        endpoint(YOUNG_POD, NEIGHBOUR_IF, [0; 6]),
    ]
}

/// Fast path off, trusted or verified; spoofs dropped or left to the stack.
#[must_use]
pub fn settings(fastpath: u8, spoof: u8) -> Settings {
    Settings {
        lease: LEASE,
        node: NODE1.into(),
        tunnel_ifindex: IfIndex(TUNNEL_IF),
        tunnel_mac: TUNNEL_MAC.into(),
        fastpath,
        spoof,
        secret: SECRET,
        mark: MARK,
        service_mark: 0,
        unanswered_mark: 0,
        unanswered_sets: 1,
        rest: 0,
        tunnel_header: 14,
        is_tried: 0,
        unwrap_flags: 0,
    }
}

/// With leases of flows that netfilter translates for a Service.
#[must_use]
pub fn with_services(settings: Settings) -> Settings {
    Settings { service_mark: SERVICE_MARK, rest: REST, ..settings }
}

/// With leases of UDP flows that get no answer.
#[must_use]
pub fn with_unanswered(settings: Settings) -> Settings {
    Settings { unanswered_mark: UNANSWERED_MARK, ..settings }
}

/// What is noted of a packet of `flow` that came by `ifindex`.
#[must_use]
pub fn arrival(flow: &Flow, ifindex: u32) -> Arrival {
    Arrival { flow: *flow, interface: IfIndex(ifindex), reserved: 0 }
}

/// The lease, but it gives the remote end this address and port.
#[must_use]
pub fn translating(lease: Lease, address: Ipv4Addr, port: u16) -> Lease {
    let translation = Translation::to(address.into(), port.to_be());
    Lease { translation, slots: EpochSlots::of_lease(&lease.flow, &translation), ..lease }
}

/// A frame as our pod sends it.
#[must_use]
pub fn from_pod() -> Frame {
    eth().macs(HOST_MAC, POD_MAC)
}

/// A frame as the stack hands it to our pod.
#[must_use]
pub fn to_pod() -> Frame {
    eth().macs(POD_MAC, HOST_MAC)
}

/// A frame as the stack hands it to the tunnel device.
#[must_use]
pub fn from_stack() -> Frame {
    eth().macs(TUNNEL_MAC, TUNNEL_MAC)
}

/// A frame as it comes from the underlay.
#[must_use]
pub fn from_wire() -> Frame {
    eth().macs(NIC_MAC, ROUTER_MAC)
}

/// A frame as tunl0 and the stack send it to the other nodes of this network.
#[must_use]
pub fn to_wire() -> Frame {
    eth().macs(ROUTER_MAC, NIC_MAC)
}
