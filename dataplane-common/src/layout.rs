//! Keys and values of the maps: fixed layout, no padding, same on both sides.
//!
//! | map | type | key → value |
//! |---|---|---|
//! | `ROUTES` | hash | [`Prefix`] → [`PrefixRoute`] |
//! | `MASKS` | array of [`MAX_MASKS`] | masks of all prefixes in `ROUTES`, the longest first |
//! | `NODES` | hash | node IP → [`NodeEntry`] |
//! | `ENDPOINTS` | hash | pod IP → [`Endpoint`] |
//! | `COUNTERS` | per-CPU array | [`crate::Reason`] → [`Counter`] |
//! | `NODE_COUNTERS` | per-CPU array | [`NodeIndex`] → [`NodeCounter`] |
//! | `LEASES` | LRU hash | [`crate::Flow`] → [`crate::Lease`] |
//! | `SEEN` | array of [`MAX_SEEN`] | [`crate::Flow::tag`] → [`Arrival`] |
//! | `UNANSWERED` | array of [`crate::unanswered::sets`] | low bits of [`crate::Flow::tag`] → [`crate::UnansweredSet`] |
//! | `TRY` | array of one | 0 → when a `tunless try` is over: `CLOCK_MONOTONIC`, nanoseconds; 0: never |
//! | `EPOCH` | array of one | 0 → [`crate::Epochs`], which end leases |
//! | `FINDINGS` | per-CPU array | [`crate::shadow::Finding`] → [`Counter`] |
//! | `WOULD` | per-CPU array | [`crate::Reason`] → [`Counter`], in `mode: shadow` |
//! | `DIFFERENCES` | array | [`crate::shadow::Finding`] → [`crate::shadow::Difference`] |
//! | `HOPS` | array of [`MAX_NODES`] in `mode: shadow`, else of one | [`NodeIndex`] → hops between the nodes |
//! | `SAMPLES` | LRU hash of [`crate::shadow::MAX_SAMPLES`] in `mode: shadow`, else of one | [`crate::Flow`] → [`Counter`] |
//! | `LINKS` | array of [`crate::link::LINK_SLOTS`] | slot → [`crate::LinkState`] |

use crate::{IfIndex, Ipv4Be, Mac, Mtu};

/// Capacity of `ROUTES`: a hundred thousand blocks and borrowed addresses.
pub const MAX_ROUTES: usize = 131_072;
/// Capacity of `MASKS`: one for each length.
pub const MAX_MASKS: usize = 33;
/// Capacity of `NODES` and `NODE_COUNTERS`; the latter takes 768 KiB for each CPU.
pub const MAX_NODES: usize = 16_384;
/// Capacity of `ENDPOINTS`: pods of one host, at most.
pub const MAX_ENDPOINTS: usize = 4_096;
/// Capacity of `LEASES` unless the configuration names another: 32 thousand
/// conversations of two directions, about 9 MB.
pub const DEFAULT_LEASES: usize = 65_536;

/// Capacity of `SEEN`: one for each flow tag. Without Service leases it has one entry.
pub const MAX_SEEN: usize = 1 << 16;

/// For so long after the daemon has compared everything its tables prove that a source is a lie,
/// nanoseconds. Without it addresses move, and nothing tells the programs. Six of its looks.
pub const KEPT_FOR: u64 = 60_000_000_000;

/// Defines a `repr(C)` struct that has no padding (checked at compile time),
/// may be copied to and from a map byte by byte, and knows its own layout.
macro_rules! plain {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$type>())*,
            concat!(stringify!($name), " has padding, which would carry stack memory into a map"),
        );

        impl $name {
            /// Size, then offset and size of each field: what [`crate::abi`] hashes.
            pub(crate) const LAYOUT: &'static [usize] = &[
                size_of::<Self>(),
                $(core::mem::offset_of!(Self, $field), size_of::<$type>(),)*
            ];
        }

        // SAFETY: `repr(C)`, `Copy`, no padding (asserted above), and every
        // field is a number for which any bits are a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use plain;

// SAFETY: `repr(transparent)` over a `u32`.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Ipv4Be {}

// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for NodeIndex {}

// SAFETY: `repr(C)`, `Copy`, and of `u32` alone.
#[cfg(feature = "user")]
unsafe impl aya::Pod for crate::Epochs {}

plain! {
    /// Addresses that begin alike.
    pub struct Prefix {
        /// The first of them.
        pub network: Ipv4Be,
        /// Ones where they are alike.
        pub mask: Ipv4Be,
    }
}

impl Prefix {
    /// The prefix of `address` that is as long as `mask`.
    #[inline(always)]
    #[must_use]
    pub const fn masked(address: Ipv4Be, mask: Ipv4Be) -> Self {
        Self { network: Ipv4Be(address.0 & mask.0), mask }
    }

    /// The prefix of `address` that is `length` bits long, at most 32.
    #[must_use]
    pub const fn new(address: Ipv4Be, length: u8) -> Self {
        Self::masked(address, Self::mask(length))
    }

    /// The mask of prefixes that are `length` bits long.
    #[must_use]
    pub const fn mask(length: u8) -> Ipv4Be {
        // Of 64 bits, so that none may be left.
        Ipv4Be((!(u32::MAX as u64 >> length) as u32).to_be())
    }

    /// How many bits its addresses have in common.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.mask.0.count_ones() as u8
    }
}

plain! {
    /// Who is behind a prefix.
    pub struct PrefixRoute {
        /// The prefix, once more. A hash map gives the memory of a removed entry to
        /// another one while a program may still be reading it; see [`crate::Lease::flow`].
        pub prefix: Prefix,
        /// Its route.
        pub route: Route,
    }
}

plain! {
    /// Who may be behind a prefix.
    pub struct Route {
        /// The node that carries it.
        pub node: Ipv4Be,
        /// Since when it has been so, `CLOCK_MONOTONIC` in seconds; for the CLI alone.
        pub since: u32,
        /// [`Route::LOCAL`], [`Route::SOURCE_ONLY`], [`Route::DIRECT`].
        pub flags: u16,
        /// Where it was learnt: [`Route::SOURCE_FILE`] …; for the CLI alone.
        pub source: u16,
    }
}

impl Route {
    /// One of our own addresses: never encapsulated to, never an inner source
    /// from the wire. It hides a wider route of another node (a borrowed address).
    pub const LOCAL: u16 = 1;
    /// Accepted as an inner source, never a destination (`extra_sources`).
    pub const SOURCE_ONLY: u16 = 2;
    /// Packets travel plain, as the kernel's routes say. What all the same comes
    /// out of the tunnel device was routed a moment ago, and is still wrapped.
    pub const DIRECT: u16 = 4;

    /// Learnt from the configuration file.
    pub const SOURCE_FILE: u16 = 0;
    /// Learnt from this host's own kernel: local pods and node addresses.
    pub const SOURCE_LOCAL: u16 = 1;
    /// Learnt from Calico's resources in the Kubernetes API.
    pub const SOURCE_KUBERNETES: u16 = 2;
    /// Learnt from Calico's keys in etcd.
    pub const SOURCE_ETCD: u16 = 3;
    /// Learnt from BIRD.
    pub const SOURCE_BIRD: u16 = 4;
    /// Learnt from the kernel's main routing table.
    pub const SOURCE_KERNEL: u16 = 5;

    /// Whether it is one of our own addresses.
    #[inline(always)]
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.flags & Self::LOCAL != 0
    }

    /// Whether packets to it are a node's, wrapped or plain.
    #[inline(always)]
    #[must_use]
    pub const fn is_destination(&self) -> bool {
        self.flags & (Self::LOCAL | Self::SOURCE_ONLY) == 0
    }

    /// Whether packets travel there plain.
    #[inline(always)]
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.flags & Self::DIRECT != 0
    }

    /// In [`Self::word`], whether there is a route.
    const SOME: u64 = 1 << 63;

    /// What packets need of it, as one number that is not 0: a program's function gives back no more.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u64 {
        Self::SOME | (self.flags as u64) << 32 | self.node.0 as u64
    }

    /// What [`Self::word`] was of, without what is for the CLI alone; none for 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self { node: Ipv4Be(word as u32), since: 0, flags: (word >> 32) as u16, source: 0 })
    }

    /// Whether it is another for packets, and so for leases: where and when it was
    /// learnt is for the CLI alone.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        (self.node, self.flags) != (other.node, other.flags)
    }
}

plain! {
    /// An interface and the addresses of the frames that go out of it.
    pub struct Hop {
        /// The interface; none while there is no way.
        pub ifindex: IfIndex,
        /// The MAC of the next hop, or of the pod, while its neighbour entry is
        /// valid, else zero.
        pub destination: Mac,
        /// Our MAC on that interface, whether the other one is known or not.
        pub source: Mac,
    }
}

impl Hop {
    /// Returns it as four numbers, as they lie in memory: the interface, then both MACs as they lie in
    /// a frame. Fewer loads and stores than its fields, which nothing but a copy needs.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        // SAFETY: sixteen bytes without padding (asserted by `plain!`), and any bits are numbers.
        unsafe { core::mem::transmute(self) }
    }

    /// Returns what [`Self::words`] takes apart.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: as above; any bits are a hop.
        unsafe { core::mem::transmute(words) }
    }
}

plain! {
    /// How to reach a node.
    pub struct Node {
        /// The underlay interface towards it, and the next hop there. While the
        /// MAC is not known, the kernel resolves it.
        pub hop: Hop,
        /// The largest outer packet the path takes.
        pub mtu: Mtu,
    }
}

impl Node {
    /// A node that IPsec protects. Nothing is encapsulated to it, and no encapsulated packet of its
    /// is decapsulated, whatever the inner source: the kernel checks these against its policies.
    ///
    /// It has no link, and an MTU that no path has.
    pub const PROTECTED: Self = Self {
        hop: Hop { ifindex: IfIndex(0), destination: Mac([0; 3]), source: Mac([0; 3]) },
        mtu: Mtu(u32::MAX),
    };

    /// Whether it is [`Node::PROTECTED`].
    #[inline(always)]
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.mtu.0 == u32::MAX
    }
}

plain! {
    /// A local pod.
    pub struct Endpoint {
        /// Its interface on the host (`cali…`), and the pod behind it.
        pub hop: Hop,
    }
}

plain! {
    /// An entry of `NODES`.
    pub struct NodeEntry {
        /// The node, once more, as in [`PrefixRoute::prefix`].
        pub address: Ipv4Be,
        /// How to reach it.
        pub node: Node,
        /// Where it is counted.
        pub index: NodeIndex,
    }
}

/// Where in `NODE_COUNTERS` a node is counted, below [`MAX_NODES`]. It is the node's own for as long as the
/// node is in `NODES`: found once, it spares every packet of a lease a lookup by address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(transparent)]
pub struct NodeIndex(pub u32);

plain! {
    /// An entry of `ENDPOINTS`.
    pub struct EndpointEntry {
        /// The pod's address, once more, as in [`PrefixRoute::prefix`].
        pub address: Ipv4Be,
        /// The pod.
        pub endpoint: Endpoint,
    }
}

plain! {
    /// With what addresses and ports a packet came to a hook of ours in front of netfilter.
    pub struct Arrival {
        /// The flow it belonged to there.
        pub flow: crate::Flow,
        /// The interface it came in by.
        pub interface: IfIndex,
        /// Always 0.
        pub reserved: u32,
    }
}

plain! {
    /// What was counted under a reason, on one CPU.
    pub struct Counter {
        /// Packets; a GSO packet is one.
        pub packets: u64,
        /// Bytes of IP packet as the program got it.
        pub bytes: u64,
    }
}

plain! {
    /// What went to and came from a node, on one CPU. Bytes are those of the
    /// inner packets, so two nodes' figures can be compared.
    pub struct NodeCounter {
        /// Pod → wire.
        pub encap: Counter,
        /// Wire → pod.
        pub decap: Counter,
        /// When a packet last came from it: `CLOCK_MONOTONIC`, ns; 0 never.
        pub last_seen: u64,
        /// Packets from it with an inner source that is not its own: of another node, of this one, or
        /// of no host at all. In none of the counters above, unless the kernel is to check them.
        pub forged: u64,
    }
}

plain! {
    /// XDP metadata in front of a packet `decap_xdp` has checked and unwrapped.
    pub struct Handover {
        /// [`crate::Settings::secret`]; anything else is not ours.
        pub secret: u32,
        /// The outer source.
        pub node: Ipv4Be,
    }
}

impl Handover {
    /// Returns the metadata that vouches for a packet of `node`, which was decapsulated.
    #[inline(always)]
    #[must_use]
    pub const fn signed(secret: u32, node: Ipv4Be) -> Self {
        Self { secret, node }
    }

    /// Returns the metadata of a packet that was left encapsulated: does it arrive? Versions that
    /// know no marks find no secret, and take the packet for what it is.
    #[inline(always)]
    #[must_use]
    pub const fn mark(secret: u32) -> Self {
        Self { secret: 0, node: Ipv4Be(secret) }
    }

    /// Returns the source MAC of decapsulated frames. With it they are recognized if they arrive
    /// without their metadata; of use for nothing else, because 32 bits can be guessed.
    #[inline(always)]
    #[must_use]
    pub const fn source_mac(secret: u32) -> Mac {
        // Locally administered, of one station; the rest is for people who see it.
        Mac([u16::from_ne_bytes([0x02, 0x54]), (secret >> 16) as u16, secret as u16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_what_its_addresses_have_in_common() {
        let address = Ipv4Be(u32::from_be_bytes([10, 20, 42, 31]).to_be());
        for (length, network, mask) in [
            (32, [10, 20, 42, 31], [255; 4]),
            (26, [10, 20, 42, 0], [255, 255, 255, 192]),
            (1, [0; 4], [128, 0, 0, 0]),
            (0, [0; 4], [0; 4]),
        ] {
            let prefix = Prefix::new(address, length);
            assert_eq!(prefix.network.0.to_ne_bytes(), network);
            assert_eq!(prefix.mask.0.to_ne_bytes(), mask);
            assert_eq!(prefix.length(), length);
        }
    }

    #[test]
    fn a_route_is_another_by_its_node_and_flags_alone() {
        let route = Route { node: Ipv4Be(1), since: 2, flags: Route::DIRECT, source: 3 };
        assert!(!route.differs(&route));
        assert!(!route.differs(&Route { since: 9, source: 9, ..route }));
        assert!(route.differs(&Route { node: Ipv4Be(9), ..route }));
        assert!(route.differs(&Route { flags: 0, ..route }));
    }
}
