//! One run of a program: which one, what it gets, what it leaves.

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::{Counter, NodeCounter, Program, Reason};

use super::world;

/// Returns the index of the interface in [`world`] on which `program` usually runs.
const fn interface(program: Program) -> u32 {
    match program {
        Program::EncapPod | Program::GrantDecap => world::POD_IF,
        Program::EncapHost => world::TUNNEL_IF,
        Program::DecapTc | Program::DecapXdp | Program::ShadowIn | Program::ShadowOut => {
            world::NIC_IF
        }
    }
}

/// Returns the index of the interface by which what `program` sees usually came in.
const fn came_by(program: Program) -> u32 {
    match program {
        Program::EncapPod | Program::EncapHost | Program::ShadowOut => world::POD_IF,
        Program::GrantDecap => world::TUNNEL_IF,
        Program::DecapTc | Program::DecapXdp | Program::ShadowIn => world::NIC_IF,
    }
}

/// How much there is of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Instructions that the verifier walked, over all paths; 0 where the kernel
    /// does not say (before 5.16).
    pub verified: u32,
    /// Instructions of the program as the verifier left it, before the JIT.
    pub translated: u32,
}

/// What became of a packet, whatever the hook calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// To whoever is next on the hook: `TC_ACT_UNSPEC`, `XDP_PASS`.
    Pass,
    /// Gone: `TC_ACT_SHOT`, `XDP_DROP`.
    Drop,
    /// On its way by a redirect helper. Where to, a test run does not tell.
    Redirect,
    /// Something no program of ours may return.
    Other(i32),
}

impl Action {
    pub(super) const fn new(program: Program, value: i32) -> Self {
        match (program, value) {
            (Program::DecapXdp, 2) | (_, -1) => Self::Pass,
            (Program::DecapXdp, 1) | (_, 2) => Self::Drop,
            (_, 7) => Self::Redirect,
            _ => Self::Other(value),
        }
    }
}

/// What a packet comes with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The interface; an XDP test run has none.
    pub ifindex: u32,
    /// The interface it came in by, before it was routed here.
    pub ingress_ifindex: u32,
    /// `skb->mark`.
    pub mark: u32,
    /// `skb->tc_index`: the tag an ingress hook left.
    pub tag: u16,
    /// `skb->gso_size`, with no GSO type beside it.
    pub gso_size: u32,
    /// XDP metadata in front of the frame.
    pub metadata: Vec<u8>,
    /// How often the program runs, each time on what the last run left.
    pub repeat: u32,
}

impl Context {
    /// A plain packet for `program`.
    #[must_use]
    pub const fn new(program: Program) -> Self {
        Self {
            ifindex: interface(program),
            ingress_ifindex: came_by(program),
            mark: 0,
            tag: 0,
            gso_size: 0,
            metadata: Vec::new(),
            repeat: 1,
        }
    }

    /// `struct __sk_buff`: only the fields a test run accepts.
    pub(super) fn skb(&self) -> Vec<u8> {
        let mut bytes = vec![0; 192];
        bytes[8..12].copy_from_slice(&self.mark.to_ne_bytes());
        bytes[36..40].copy_from_slice(&self.ingress_ifindex.to_ne_bytes());
        bytes[40..44].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[176..180].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes
    }

    /// `struct xdp_md`: `data` is the length of the metadata, `data_end` that of all.
    pub(super) fn xdp(&self, frame: usize) -> Vec<u8> {
        let metadata = self.metadata.len() as u32;
        let mut bytes = vec![0; 24];
        bytes[0..4].copy_from_slice(&metadata.to_ne_bytes());
        bytes[4..8].copy_from_slice(&(metadata + frame as u32).to_ne_bytes());
        bytes
    }
}

/// What a run left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// The verdict.
    pub action: Action,
    /// The whole frame.
    pub packet: Vec<u8>,
    /// XDP metadata in front of it.
    pub metadata: Vec<u8>,
    /// `skb->mark`; an XDP frame has none.
    pub mark: u32,
}

/// Every counter there is, summed over the CPUs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Those that are not zero.
    pub reasons: BTreeMap<Reason, Counter>,
    /// Those of the nodes that have one.
    pub nodes: BTreeMap<Ipv4Addr, NodeCounter>,
}
