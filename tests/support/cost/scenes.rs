//! A packet for each program, and what becomes of it.

use std::net::Ipv4Addr;

use super::super::{
    packet::{ETHERNET, Frame, IPV4},
    prog::{Context, Program},
    world::{
        self, MARK, NODE1, NODE2, POD, REMOTE, SECRET, STRANGER, TUNNEL_ADDRESS, flow, from_pod,
        from_stack, from_wire, to_pod, to_wire, way_to_pod,
    },
};
use dataplane_common::{
    Direction, Flow, Lease,
    Reason::{
        self, DecapNoEndpointToStack, DecapNoLeaseToStack, DecapSourceUnknown, DecapToPod,
        DecapToStack, GrantGiven, GrantUnmarked, HostEncapsulated, HostLeaseGranted, HostNoRoute,
        HostUnmarked, PodEncapsulated, PodNoLease, PodNoRoute, XdpUnwrapped,
    },
    Settings,
};

use super::maps::way_out;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const PORTS: (u16, u16) = (1000, 2000);

/// A packet's way through one program.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// The program.
    pub program: Program,
    /// [`Settings::fastpath`].
    pub fastpath: u8,
    /// What the packet is counted under.
    pub reason: Option<Reason>,
    /// Whether that is what the program is for.
    pub hit: bool,
    /// Whether its flow has a lease.
    pub leased: bool,
    from: Ipv4Addr,
    to: Ipv4Addr,
    marked: bool,
}

/// Every program in every mode it is there for, with a hit and a miss.
pub fn all() -> Vec<Scene> {
    use Program::{DecapTc, DecapXdp, EncapHost, EncapPod, GrantDecap, ShadowIn, ShadowOut};
    let (off, trusted, verified) = (Settings::OFF, Settings::TRUSTED, Settings::VERIFIED);
    let hit = |program, fastpath, reason| {
        let (from, to) = match program {
            EncapPod | EncapHost | ShadowOut => (POD, REMOTE),
            DecapTc | DecapXdp | GrantDecap | ShadowIn => (REMOTE, POD),
        };
        let reason = Some(reason);
        Scene { program, fastpath, reason, hit: true, leased: false, from, to, marked: false }
    };
    let miss = |program, fastpath, reason| Scene { hit: false, ..hit(program, fastpath, reason) };
    let strange = Scene { from: STRANGER, ..miss(DecapTc, off, DecapSourceUnknown) };
    vec![
        Scene { leased: true, ..hit(EncapPod, verified, PodEncapsulated) },
        miss(EncapPod, verified, PodNoLease),
        hit(EncapPod, trusted, PodEncapsulated),
        Scene { to: STRANGER, ..miss(EncapPod, trusted, PodNoRoute) },
        hit(EncapHost, off, HostEncapsulated),
        Scene { to: STRANGER, ..miss(EncapHost, off, HostNoRoute) },
        Scene { marked: true, ..hit(EncapHost, verified, HostLeaseGranted) },
        miss(EncapHost, verified, HostUnmarked),
        hit(DecapTc, off, DecapToStack),
        strange,
        Scene { leased: true, ..hit(DecapTc, verified, DecapToPod) },
        miss(DecapTc, verified, DecapNoLeaseToStack),
        hit(DecapTc, trusted, DecapToPod),
        Scene { to: TUNNEL_ADDRESS, ..miss(DecapTc, trusted, DecapNoEndpointToStack) },
        hit(DecapXdp, off, XdpUnwrapped),
        // Left to decap_tc, which counts it.
        Scene { program: DecapXdp, reason: None, ..strange },
        Scene { marked: true, ..hit(GrantDecap, verified, GrantGiven) },
        miss(GrantDecap, verified, GrantUnmarked),
    ]
}

impl Scene {
    /// What becomes of the packet.
    pub fn outcome(&self) -> &'static str {
        self.reason.map_or("passed", Reason::as_str)
    }

    /// The frame, that of the pod being so long.
    pub fn frame(&self, bytes: u32) -> Vec<u8> {
        let (source, destination) = PORTS;
        let payload = bytes as usize - ETHERNET - IPV4 - UDP_HEADER;
        let outside = match self.program {
            Program::EncapPod => from_pod(),
            Program::EncapHost => from_stack(),
            Program::DecapTc | Program::DecapXdp | Program::ShadowIn => {
                from_wire().ipv4(NODE2, NODE1)
            }
            Program::ShadowOut => to_wire().ipv4(NODE1, NODE2),
            Program::GrantDecap => to_pod(),
        };
        let inside: Frame = outside.ipv4(self.from, self.to);
        inside.udp(source, destination).payload(payload).bytes()
    }

    /// With the mark and the proof that a lease takes, if it has them.
    pub fn context(&self) -> Context {
        let (flow, _) = self.lease();
        let (mark, tag) = if self.marked { (MARK, flow.tag(SECRET)) } else { (0, 0) };
        Context { mark, tag, ..Context::new(self.program) }
    }

    /// Its flow, and a lease for that.
    pub fn lease(&self) -> (Flow, Lease) {
        let direction = self.program.direction();
        let way = match direction {
            Direction::Encap => way_out(),
            Direction::Decap => way_to_pod(),
        };
        let flow = flow(direction, UDP, (self.from, PORTS.0), (self.to, PORTS.1));
        (flow, world::lease(&flow, NODE2, way))
    }
}
