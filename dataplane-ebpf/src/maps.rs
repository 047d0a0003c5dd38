//! Every map: who writes it, who reads it. Layouts and sizes: `dataplane_common::layout`.

use core::{
    ptr::read_volatile,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use dataplane_common::{
    Arrival, Counter, Endpoint, EndpointEntry, EpochSlots, Epochs, Flow, Hop, IfIndex, Ipv4Be,
    Lease, LinkState, Node, NodeCounter, NodeEntry, NodeIndex, Prefix, PrefixRoute, Reason, Route,
    UnansweredSet,
    epochs::SLOTS,
    layout::{DEFAULT_LEASES, KEPT_FOR, MAX_ENDPOINTS, MAX_MASKS, MAX_NODES, MAX_ROUTES, MAX_SEEN},
    link::LINK_SLOTS,
    shadow::{Difference, Finding},
};

use crate::{helpers, settings};

/// Prefix → node. Written by the daemon. A trie would find the longest prefix by itself,
/// but takes the longer the more there are (docs/adr/0006-routes-by-hash.md).
#[btf_map]
static ROUTES: HashMap<Prefix, PrefixRoute, MAX_ROUTES, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The masks of all prefixes in `ROUTES`, the longest first. 0, that of the default
/// route, ends the list. Written by the daemon.
#[btf_map]
static MASKS: Array<Ipv4Be, MAX_MASKS> = Array::new();

/// Node IP → the way there. Written by the daemon.
#[btf_map]
static NODES: HashMap<Ipv4Be, NodeEntry, MAX_NODES> = HashMap::new();

/// Pod IP → its interface. Written by the daemon.
#[btf_map]
static ENDPOINTS: HashMap<Ipv4Be, EndpointEntry, MAX_ENDPOINTS> = HashMap::new();

/// Reason → packets, bytes. Written by the programs.
#[btf_map]
static COUNTERS: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();

/// A node's index → packets, bytes. The daemon gives out the indices, the programs write the figures.
#[btf_map]
static NODE_COUNTERS: PerCpuArray<NodeCounter, MAX_NODES> = PerCpuArray::new();

/// Flow → lease. Written by the programs; the loader gives it the configured size.
#[btf_map]
static LEASES: LruHashMap<Flow, Lease, DEFAULT_LEASES> = LruHashMap::new();

/// Flow tag → with what addresses and ports the packet came that bears it. Written by the programs;
/// indexed by the tag, so that a packet finds its own entry however long it takes through the stack.
#[btf_map]
static SEEN: Array<Arrival, MAX_SEEN> = Array::new();

/// Flow tag → the UDP flows without an answer that have it. Written by the programs; the loader gives it
/// the size that fits that of `LEASES`.
#[btf_map]
static UNANSWERED: Array<UnansweredSet, 1> = Array::new();

/// What good leases bear the sum of. The daemon raises those that something concerns which leases
/// hold and which has changed. It adds to them in place, so that no two writers undo each other.
#[btf_map]
static EPOCH: Array<Epochs, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// When the daemon compared everything last, `CLOCK_MONOTONIC` in nanoseconds.
#[btf_map]
static KEPT_AT: Array<u64, 1> = Array::new();

/// Returns whether routes and endpoints are what the daemon knows now. It is dead, or hangs, if not.
#[inline(always)]
pub fn are_kept() -> bool {
    let kept_at = KEPT_AT.get(0).copied().unwrap_or(0);
    helpers::now().saturating_sub(kept_at) < KEPT_FOR
}

/// When a `tunless try` is over, `CLOCK_MONOTONIC` in nanoseconds; 0: it was kept. Written by the daemon
/// and by `tunless try --keep`.
#[btf_map]
static TRY: Array<u64, 1> = Array::new();

/// Returns whether a `tunless try` has come to its end without being kept: then the kernel has every
/// packet as if no program were there.
#[inline(always)]
pub fn is_try_over() -> bool {
    settings::is_tried() && TRY.get(0).is_some_and(|end| *end != 0 && helpers::now() >= *end)
}

/// Link → whether what XDP vouches for arrives. Entries are made by the daemon, written by the
/// programs.
#[btf_map]
static LINKS: Array<LinkState, LINK_SLOTS> = Array::new();

/// Finding → packets, bytes. As the four that follow: of `mode: shadow`, written by its programs.
#[btf_map]
static FINDINGS: PerCpuArray<Counter, { Finding::COUNT }> = PerCpuArray::new();

/// Reason → packets, bytes that a program which serves would have counted there.
#[btf_map]
static WOULD: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();

/// Finding → the last packet with it.
#[btf_map]
static DIFFERENCES: Array<Difference, { Finding::COUNT }> = Array::new();

/// A node's index → how many hops it is away. The loader gives this and the next map their size in
/// `mode: shadow`.
#[btf_map]
static HOPS: Array<u32, 1> = Array::new();

/// Flow → packets, bytes of those that were sampled. User space empties it.
#[btf_map]
static SAMPLES: LruHashMap<Flow, Counter, 1> = LruHashMap::new();

/// The mask at `index`, the longest first.
#[inline(always)]
pub fn mask(index: u32) -> Option<Ipv4Be> {
    MASKS.get(index).copied()
}

/// The route of exactly this prefix. An entry that has become another prefix's is not there.
#[inline(always)]
pub fn route(prefix: Prefix) -> Option<Route> {
    // SAFETY: what may be written meanwhile is read as numbers, and judged after that.
    let entry = unsafe { ROUTES.get(prefix) }?;
    let route = entry.route;
    (read_last(&entry.prefix) == prefix).then_some(route)
}

/// The way to a node, and where it is counted.
#[inline(always)]
pub fn node(address: Ipv4Be) -> Option<NodeEntry> {
    // SAFETY: what may be written meanwhile is read as numbers, and checked after that.
    let entry = unsafe { NODES.get(address) }?;
    let node = Node { hop: hop(&entry.node.hop), mtu: entry.node.mtu };
    let index = entry.index;
    (read_last(&entry.address) == address).then_some(NodeEntry { address, node, index })
}

/// The local pod that has `address`.
#[inline(always)]
pub fn endpoint(address: Ipv4Be) -> Option<Endpoint> {
    // SAFETY: as in `node`.
    let entry = unsafe { ENDPOINTS.get(address) }?;
    let endpoint = Endpoint { hop: hop(&entry.endpoint.hop) };
    (read_last(&entry.address) == address).then_some(endpoint)
}

/// A copy of a hop in a map: four loads, which a copy by the compiler is not.
#[inline(always)]
pub fn hop(of: &Hop) -> Hop {
    // SAFETY: a hop is four numbers of four bytes, aligned as such, for which any bits are a value.
    Hop::from_words(unsafe { read_volatile((of as *const Hop).cast::<[u32; 4]>()) })
}

/// A flow's lease, good or not.
#[inline(always)]
pub fn lease(flow: &Flow) -> Option<&'static mut Lease> {
    let lease = LEASES.get_ptr_mut(flow)?;
    // SAFETY: the memory stays a lease's while the program runs, if not always
    // this flow's (see `Lease::flow` and `Lease::good_until`).
    Some(unsafe { &mut *lease })
}

/// Returns whether an entry is this flow's, and so was what was read of it before.
#[inline(always)]
pub fn is_still_of(entry: &Lease, flow: &Flow) -> bool {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a flow is two numbers of eight bytes, aligned as such, for which any bits are a value.
    let [addresses, rest] = unsafe { read_volatile((&raw const entry.flow).cast::<[u64; 2]>()) };
    let own = flow.words();
    (addresses ^ own[0]) | (rest ^ own[1]) == 0
}

/// Grants a lease to a flow that has no entry. A full map forgets whom it has not seen for longest.
#[inline(always)]
pub fn grant(flow: &Flow, lease: &Lease) {
    // Another CPU may have been first.
    let _ = LEASES.insert(flow, lease, u64::from(BPF_NOEXIST));
}

/// Grants a lease in the place of an entry that is of no use any more.
#[inline(always)]
pub fn replace(flow: &Flow, lease: &Lease) {
    let _ = LEASES.insert(flow, lease, u64::from(BPF_ANY));
}

/// Ends a lease.
#[inline(always)]
pub fn revoke(flow: &Flow) {
    let _ = LEASES.remove(flow);
}

/// What was last noted under a flow tag.
#[inline(always)]
pub fn seen(tag: u16) -> Option<&'static mut Arrival> {
    let arrival = SEEN.get_ptr_mut(u32::from(tag))?;
    // SAFETY: an element of an array. Other CPUs write it, too: its reader compares what it read with
    // the tag.
    Some(unsafe { &mut *arrival })
}

/// The flows without an answer among which one with this tag is.
#[inline(always)]
pub fn unanswered(tag: u16) -> Option<&'static mut UnansweredSet> {
    let index = u32::from(tag) & settings::unanswered_sets().wrapping_sub(1);
    let set = UNANSWERED.get_ptr_mut(index)?;
    // SAFETY: an element of an array. Other CPUs write it, too: what is torn leads to a lease too early or
    // too late, of a flow that netfilter lets pass.
    Some(unsafe { &mut *set })
}

/// The epochs that end leases; there is always one element.
#[inline(always)]
pub fn epochs() -> Option<&'static Epochs> {
    EPOCH.get(0)
}

/// The sum that good leases bear whose epochs are there.
#[inline(always)]
pub fn epoch(epochs: &Epochs, slots: EpochSlots) -> u32 {
    let remote = read_last(&epochs.remote[usize::from(slots.remote) % SLOTS]);
    let local = read_last(&epochs.local[usize::from(slots.local) % SLOTS]);
    read_last(&epochs.all).wrapping_add(remote).wrapping_add(local)
}

/// What is known of hand-overs on a link; nothing where the daemon wants none.
#[inline(always)]
pub fn link(ifindex: IfIndex) -> Option<&'static mut LinkState> {
    let link = LINKS.get_ptr_mut(LinkState::slot(ifindex))?;
    // SAFETY: a slot of the array. Other CPUs write it, too: see `dataplane_common::link`.
    let link = unsafe { &mut *link };
    (link.ifindex == ifindex).then_some(link)
}

/// Reads what tells whose an entry is, after everything else was read of it.
///
/// A map gives the memory of a removed entry to another one, and writes this field
/// first: if it is still the expected one, so was what was read before.
#[inline(always)]
pub fn read_last<T: Copy>(field: &T) -> T {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a reference is valid to read.
    unsafe { read_volatile(field) }
}

/// This CPU's counter of a reason.
#[inline(always)]
pub fn counter(reason: Reason) -> Option<&'static mut Counter> {
    let counter = COUNTERS.get_ptr_mut(reason as u32)?;
    // SAFETY: a slot of this CPU alone, and no program of ours runs inside
    // another on the same hook.
    Some(unsafe { &mut *counter })
}

/// This CPU's counters of a node.
#[inline(always)]
pub fn node_counter(node: NodeIndex) -> Option<&'static mut NodeCounter> {
    let counter = NODE_COUNTERS.get_ptr_mut(node.0)?;
    // SAFETY: as in `counter`.
    Some(unsafe { &mut *counter })
}

/// This CPU's counter of a finding.
#[inline(always)]
pub fn finding(finding: Finding) -> Option<&'static mut Counter> {
    let counter = FINDINGS.get_ptr_mut(finding as u32)?;
    // SAFETY: as in `counter`.
    Some(unsafe { &mut *counter })
}

/// This CPU's counter of what would have been counted under a reason.
#[inline(always)]
pub fn would(reason: Reason) -> Option<&'static mut Counter> {
    let counter = WOULD.get_ptr_mut(reason as u32)?;
    // SAFETY: as in `counter`.
    Some(unsafe { &mut *counter })
}

/// Where the last packet with a finding is kept.
#[inline(always)]
pub fn difference(finding: Finding) -> Option<&'static mut Difference> {
    let last = DIFFERENCES.get_ptr_mut(finding as u32)?;
    // SAFETY: an element of an array. Other CPUs write it, too: at worst the headers shown are of two
    // packets with the same finding.
    Some(unsafe { &mut *last })
}

/// How many hops a node is away.
#[inline(always)]
pub fn hops(node: NodeIndex) -> Option<&'static mut u32> {
    let hops = HOPS.get_ptr_mut(node.0)?;
    // SAFETY: an element of an array. Other CPUs write it, too: each writes a whole number.
    Some(unsafe { &mut *hops })
}

/// What was counted of a sampled flow.
#[inline(always)]
pub fn sampled(flow: &Flow) -> Option<&'static mut Counter> {
    let counter = SAMPLES.get_ptr_mut(flow)?;
    // SAFETY: the memory stays a counter while the program runs. Other CPUs write it, too: see
    // `shadow::sample`.
    Some(unsafe { &mut *counter })
}

/// Begins to count a sampled flow.
#[inline(always)]
pub fn sample(flow: &Flow, counter: &Counter) {
    let _ = SAMPLES.insert(flow, counter, u64::from(BPF_ANY));
}
