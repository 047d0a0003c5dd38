//! The programs attached to interfaces, and real packets sent at them: what a
//! test run cannot show. That is frames it does not take, tags the kernel takes
//! out of them, real GSO, headers in pages, where a redirect leads, and what
//! XDP tells TC.

use std::{
    net::Ipv4Addr,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{LinkOrder, TcAttachType, XdpMode, tc::TcAttachOptions};
use dataplane_common::{Direction, Flow, Lease, LinkState, Reason, Settings};

use super::{
    case::difference,
    hex,
    netns::{Net, in_namespace, ip},
    packet::{ETHERNET, Frame},
    prog::{Counters, Loaded, Program},
    wire::{Shape, Wire},
    world::{self, Entry},
};

/// Where a packet is put in, and what meets it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// Sent by the pod.
    Pod,
    /// Sent by the stack to the tunnel device.
    Tunnel,
    /// Arrives from the underlay.
    Nic,
    /// Arrives from the underlay where XDP unwraps.
    NicXdp,
    /// Leaves the XDP program, which does not know it, and reaches TC.
    AfterXdp,
}

/// Where a packet must come out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Nowhere one could look: dropped, or left to the kernel.
    None,
    /// On the underlay.
    Wire,
    /// At the ingress of the tunnel device.
    Tunnel,
    /// In the pod.
    Pod,
}

/// One packet sent at an attached program.
#[derive(Clone)]
pub struct LiveCase {
    /// What is being said.
    pub what: String,
    hook: Hook,
    packet: Frame,
    shape: Shape,
    metadata: Vec<u8>,
    exit: Exit,
    out: Vec<u8>,
    extra: Vec<Entry>,
    leases: Vec<(Flow, Option<Lease>)>,
    counts: Vec<Reason>,
    bytes: Vec<u64>,
    nodes: Vec<(Ipv4Addr, Direction, u64)>,
    link: LinkState,
    phase: u32,
}

impl LiveCase {
    /// `packet` arrives at `hook`.
    #[must_use]
    pub fn new(hook: Hook, what: impl Into<String>, packet: &Frame) -> Self {
        Self {
            what: what.into(),
            hook,
            packet: packet.clone(),
            shape: Shape::default(),
            metadata: Vec::new(),
            exit: Exit::None,
            out: Vec::new(),
            extra: Vec::new(),
            leases: Vec::new(),
            counts: Vec::new(),
            bytes: Vec::new(),
            nodes: Vec::new(),
            link: world::PROVEN,
            phase: LinkState::PROVEN,
        }
    }

    /// With this known of hand-overs by the NIC, and this phase afterwards.
    #[must_use]
    pub const fn link(mut self, link: LinkState, phase: u32) -> Self {
        (self.link, self.phase) = (link, phase);
        self
    }

    /// In an skb of this shape.
    #[must_use]
    pub const fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// With XDP metadata in front; for [`Hook::AfterXdp`].
    #[must_use]
    pub fn metadata(mut self, metadata: &[u8]) -> Self {
        self.metadata = metadata.to_vec();
        self
    }

    /// With one more line in a map.
    #[must_use]
    pub fn with(mut self, entry: Entry) -> Self {
        self.extra.push(entry);
        self
    }

    /// This lease there must be afterwards.
    #[must_use]
    pub fn leaves(mut self, (flow, lease): (Flow, Lease)) -> Self {
        self.leases.push((flow, Some(lease)));
        self
    }

    /// Of this flow there must be no lease afterwards.
    #[must_use]
    pub fn gone(mut self, flow: Flow) -> Self {
        self.leases.push((flow, None));
        self
    }

    /// Counted under `reason`, with all the bytes it was sent with.
    #[must_use]
    pub fn counted(self, reason: Reason) -> Self {
        let bytes = self.packet.bytes().len() - ETHERNET;
        self.counted_bytes(reason, bytes as u64)
    }

    /// Counted under `reason` with so many bytes.
    #[must_use]
    pub fn counted_bytes(mut self, reason: Reason, bytes: u64) -> Self {
        self.counts.push(reason);
        self.bytes.push(bytes);
        self
    }

    /// Must come out at `exit` as `out`, `bytes` counted for `node`.
    #[must_use]
    pub fn sent(mut self, exit: Exit, out: &Frame, node: Ipv4Addr, bytes: u64) -> Self {
        let direction = match self.hook {
            Hook::Pod | Hook::Tunnel => Direction::Encap,
            Hook::Nic | Hook::NicXdp | Hook::AfterXdp => Direction::Decap,
        };
        (self.exit, self.out) = (exit, out.bytes());
        self.nodes.push((node, direction, bytes));
        self
    }

    /// The reasons it must be counted under.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> + '_ {
        self.counts.iter().copied()
    }

    fn run(&self, net: &Net, loaded: &mut Loaded) -> Result<(), String> {
        for entry in &self.extra {
            loaded.add(entry);
        }
        let exit = match self.exit {
            Exit::None => None,
            Exit::Wire => Some(&net.wire),
            Exit::Tunnel => Some(&net.tunnel),
            Exit::Pod => Some(&net.pod),
        };
        if let Some(exit) = exit {
            exit.drain();
        }
        loaded.reset();
        loaded.set_link(self.link);
        let packet = self.packet.bytes();
        match self.hook {
            Hook::Pod => net.pod.send(&packet, self.shape),
            Hook::Tunnel => net.tunnel.send(&packet, self.shape),
            Hook::Nic | Hook::NicXdp => net.wire.send(&packet, self.shape),
            Hook::AfterXdp => loaded.run_live(world::NIC_IF, &packet, &self.metadata),
        }
        let came = exit.map(Wire::receive);
        let counters = settle(loaded, self.counts.len() as u64);
        let leases: Vec<_> =
            self.leases.iter().map(|(flow, _)| (*flow, loaded.lease(flow))).collect();
        for entry in &self.extra {
            loaded.remove(entry);
        }

        let phase = loaded.link(Program::DecapTc).phase;
        let counts: Vec<_> = self.counts.iter().copied().zip(self.bytes.iter().copied()).collect();
        let mut wrong = difference(&counters, &counts, &self.nodes);
        if phase != self.phase {
            wrong += &format!("the link's phase is {phase}, expected {}\n", self.phase);
        }
        if leases != self.leases {
            wrong += &format!("leases {leases:?}\nexpected {:?}\n", self.leases);
        }
        match came {
            None => {}
            Some(None) => wrong += "nothing came out",
            Some(Some(came)) => {
                if came.frame != self.out {
                    wrong += &hex::difference(&self.out, &came.frame);
                }
                if came.gso_size != self.shape.gso_size {
                    wrong += &format!("gso_size {}", came.gso_size);
                }
                if came.is_tagged {
                    wrong += "it still has a VLAN tag";
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// Waits until `packets` are counted; more would have to follow at once.
#[must_use]
pub fn settle(loaded: &Loaded, packets: u64) -> Counters {
    const PATIENCE: Duration = Duration::from_secs(5);
    let start = Instant::now();
    loop {
        let counters = loaded.counters();
        let counted: u64 = counters.reasons.values().map(|counter| counter.packets).sum();
        if counted >= packets || start.elapsed() > PATIENCE {
            return counters;
        }
        sleep(Duration::from_millis(1));
    }
}

/// Attaches `program` by TCX.
pub fn attach(loaded: &mut Loaded, program: Program, interface: &str, direction: TcAttachType) {
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    loaded
        .classifier(program)
        .attach_with_options(interface, direction, order)
        .unwrap_or_else(|error| panic!("{program} goes on {interface}: {error}"));
}

/// Runs `test` with all programs attached where they belong; XDP only if `xdp`.
pub fn attached<T: Send>(
    fastpath: u8,
    xdp: bool,
    test: impl FnOnce(&Net, &mut Loaded) -> T + Send,
) -> T {
    in_namespace(|net| {
        let mut loaded = Loaded::new(world::settings(fastpath, Settings::SPOOF_DROP));
        attach(&mut loaded, Program::EncapPod, "cali0", TcAttachType::Ingress);
        attach(&mut loaded, Program::EncapHost, "tunless0", TcAttachType::Egress);
        attach(&mut loaded, Program::DecapTc, "eth0", TcAttachType::Ingress);
        // What the fast path delivers must not pass here: it would be dropped and counted.
        attach(&mut loaded, Program::EncapHost, "cali0", TcAttachType::Egress);
        if xdp {
            // A veth takes XDP only if a frame of its peer's fits a page.
            net.outside(|| ip("link set wire mtu 1500\n"));
            loaded.xdp().attach("eth0", XdpMode::Driver).expect("a veth takes XDP");
        }
        test(net, &mut loaded)
    })
}

/// Runs a table. Its rows share the settings.
///
/// # Panics
/// With a report of all rows that fail.
pub fn run(table: &str, fastpath: u8, cases: &[LiveCase]) {
    let mut failures = Vec::new();
    for xdp in [false, true] {
        let cases: Vec<_> =
            cases.iter().filter(|case| (case.hook == Hook::NicXdp) == xdp).collect();
        if cases.is_empty() {
            continue;
        }
        failures.extend(attached(fastpath, xdp, |net, loaded| {
            let mut failures = Vec::new();
            for case in cases {
                println!("{table}: {:?}: {}", case.hook, case.what);
                if let Err(wrong) = case.run(net, loaded) {
                    failures.push(format!("{:?}: {}:\n{wrong}", case.hook, case.what));
                }
            }
            failures
        }));
    }
    crate::case::announce(table, cases.len());
    assert!(
        failures.is_empty(),
        "{table}: {} cases fail\n\n{}",
        failures.len(),
        failures.join("\n")
    );
}
