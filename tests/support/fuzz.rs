//! Frames nobody would think of: sound ones, spoilt at random.

use std::net::Ipv4Addr;

use dataplane_common::{Arrival, Direction, EpochSlots, Flow, IfIndex, Lease};
use etherparse::checksum::Sum16BitWords;

use super::{
    packet::{ETHERNET, Frame, IPV4, eth},
    prog::{Context, Program},
    world::{self, MARK, SERVICE_MARK},
};

/// `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>): small, and the same
/// everywhere from the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn byte(&mut self) -> u8 {
        self.bits() as u8
    }
}

const ADDRESSES: [Ipv4Addr; 21] = [
    world::NODE1,
    world::NODE2,
    world::NODE3,
    world::NODE_AWAY,
    world::NODE_UNKNOWN,
    world::POD,
    world::NEIGHBOUR,
    world::YOUNG_POD,
    world::TUNNEL_ADDRESS,
    world::REMOTE,
    world::REMOTE3,
    world::BORROWED,
    world::REMOTE_AWAY,
    world::REMOTE_DIRECT,
    world::REMOTE_UNKNOWN,
    world::EXTRA_SOURCE,
    world::STRANGER,
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::BROADCAST,
    Ipv4Addr::new(224, 0, 0, 5),
];

/// A frame for `program`, most likely one it cares about; 34 bytes or more.
pub fn frame(random: &mut Random, program: Program) -> Vec<u8> {
    let mut bytes = sound(random, program).bytes();
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2, 3, 8]) {
        spoil(random, &mut bytes);
    }
    // Without right checksums nothing would come past them.
    if !random.one_in(6) {
        mend(&mut bytes, ETHERNET);
        if bytes.get(ETHERNET + 9) == Some(&4) {
            mend(&mut bytes, ETHERNET + IPV4);
        }
    }
    let length = bytes.len().max(ETHERNET + IPV4);
    bytes.resize(length, 0);
    bytes
}

/// Who sends to whom in sound frames.
fn pairs(program: Program) -> [(Ipv4Addr, Ipv4Addr); 2] {
    match program {
        Program::EncapPod => [(world::POD, world::REMOTE), (world::POD, world::SERVICE)],
        Program::GrantDecap => [(world::REMOTE, world::POD), (world::SERVICE, world::POD)],
        Program::EncapHost | Program::ShadowOut => {
            [(world::POD, world::REMOTE), (world::TUNNEL_ADDRESS, world::REMOTE3)]
        }
        Program::DecapTc | Program::DecapXdp | Program::ShadowIn => {
            [(world::REMOTE, world::POD), (world::REMOTE, world::TUNNEL_ADDRESS)]
        }
    }
}

fn sound(random: &mut Random, program: Program) -> Frame {
    let mut frame = match program {
        Program::EncapPod => world::from_pod(),
        Program::GrantDecap => world::to_pod(),
        Program::EncapHost => world::from_stack(),
        Program::DecapTc | Program::DecapXdp | Program::ShadowIn => {
            world::from_wire().ipv4(world::NODE2, world::NODE1)
        }
        Program::ShadowOut => world::to_wire().ipv4(world::NODE1, world::NODE2),
    };
    if random.one_in(200) {
        frame = eth();
    }
    let (from, to) = random.pick(&pairs(program));
    frame = frame.ipv4(from, to).ttl(random.pick(&[0, 1, 2, 3, 64, 255])).tos(random.byte());
    frame = frame.id(random.bits() as u16);
    if random.one_in(8) {
        frame = frame.fragment(random.bits() as u16);
    }
    if random.one_in(8) {
        frame = frame.options(&[1; 40][..4 * random.below(11)]);
    }
    let flags = random.byte();
    frame = match random.below(4) {
        0 => frame.tcp(1, 2, flags & 0x18),
        1 => frame.tcp(1, 2, flags),
        2 => frame.udp(1, 2),
        _ => frame.raw(random.byte()),
    };
    let size = if random.one_in(10) { 1200 + random.below(300) } else { random.below(100) };
    frame = frame.payload(size);
    if random.one_in(4) { frame.padding(random.below(30)) } else { frame }
}

/// What it comes with where leases are asked for: marks, tags and interfaces,
/// more right than wrong.
pub fn context(random: &mut Random, program: Program, frame: &[u8]) -> Context {
    let mut context = Context::new(program);
    let others = random.bits() as u32 & !(MARK | SERVICE_MARK);
    let mark = random.pick(&[0, MARK, MARK, MARK, SERVICE_MARK, SERVICE_MARK]);
    context.mark = mark | random.pick(&[0, others]);
    context.tag = match random.below(12) {
        0 => 0,
        1 => random.bits() as u16,
        2..=5 => random.pick(&translated(program)).tag(world::SECRET),
        _ => right_tag(program, frame),
    };
    if random.one_in(8) {
        context.ingress_ifindex =
            random.pick(&[0, world::NIC_IF, world::POD_IF, world::TUNNEL_IF, world::NEIGHBOUR_IF]);
    }
    context
}

/// Of what looks like a flow, be it one or not.
fn right_tag(program: Program, frame: &[u8]) -> u16 {
    let Some(ip) = frame.get(ETHERNET..ETHERNET + IPV4 + 4) else { return 1 };
    let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let port = |at: usize| u16::from_ne_bytes([ip[at], ip[at + 1]]);
    let flow = Flow {
        source: dataplane_common::Ipv4Be(word(12)),
        destination: dataplane_common::Ipv4Be(word(16)),
        source_port: port(20),
        destination_port: port(22),
        protocol: ip[9],
        direction: program.direction() as u8,
        reserved: 0,
    };
    flow.tag(world::SECRET)
}

/// The tuples of sound frames as they were before netfilter translated them for a Service.
fn translated(program: Program) -> [Flow; 4] {
    let flow = |protocol, address| match program.direction() {
        Direction::Encap => world::flow(Direction::Encap, protocol, (world::POD, 1), (address, 2)),
        Direction::Decap => world::flow(Direction::Decap, protocol, (address, 1), (world::POD, 2)),
    };
    let (here, there) = match program.direction() {
        Direction::Encap => (world::SERVICE, world::REMOTE3),
        Direction::Decap => (world::REMOTE, world::REMOTE3),
    };
    [flow(6, here), flow(17, here), flow(6, there), flow(17, there)]
}

/// What is noted of such packets: right, of another interface, or of another flow.
pub fn arrivals(random: &mut Random, program: Program) -> Vec<(u16, Arrival)> {
    let mut arrivals = Vec::new();
    for flow in translated(program) {
        let noted = match random.below(6) {
            0 => Arrival::default(),
            1 => world::arrival(&flow, world::NEIGHBOUR_IF),
            2 => world::arrival(&flow.reverse(), world::POD_IF),
            _ => world::arrival(&flow, world::POD_IF),
        };
        arrivals.push((flow.tag(world::SECRET), noted));
    }
    arrivals
}

/// Leases for the flows of sound frames and for their answers: good, bad, or none. With `services`
/// also for what Services make of them.
pub fn leases(random: &mut Random, program: Program, services: bool) -> Vec<(Flow, Lease)> {
    let mut leases = plain_leases(random, program);
    if !services {
        return leases;
    }
    // As in sound frames, whose source port is 1 and whose destination port is 2.
    let (client, port) = match program.direction() {
        Direction::Encap => (1, 2),
        Direction::Decap => (2, 1),
    };
    let ends = [world::SERVICE, world::REMOTE, world::REMOTE3];
    for protocol in [6, 17] {
        for address in ends {
            let flow =
                world::flow(Direction::Encap, protocol, (world::POD, client), (address, port));
            for flow in [flow, flow.reverse()] {
                let is_dealt = leases.iter().any(|(dealt, _)| *dealt == flow);
                if is_dealt || random.one_in(3) {
                    continue;
                }
                let mut lease = lease(random, &flow);
                if !random.one_in(4) {
                    let port = if random.one_in(4) { port + 1 } else { port };
                    lease = world::translating(lease, random.pick(&ends), port);
                    if random.one_in(6) {
                        lease.expires = world::REVOKED;
                    }
                }
                leases.push((flow, lease));
            }
        }
    }
    leases
}

fn plain_leases(random: &mut Random, program: Program) -> Vec<(Flow, Lease)> {
    let mut leases = Vec::new();
    for (from, to) in pairs(program) {
        for protocol in [6, 17] {
            let flow = world::flow(program.direction(), protocol, (from, 1), (to, 2));
            for flow in [flow, flow.reverse()] {
                if !random.one_in(4) {
                    leases.push((flow, lease(random, &flow)));
                }
            }
        }
    }
    leases
}

fn lease(random: &mut Random, flow: &Flow) -> Lease {
    let ways = [world::way_to_node2(), world::way_to_node3(), world::way_to_pod()];
    let way = if flow.direction() == Direction::Decap {
        world::way_to_pod()
    } else {
        ways[random.below(2)]
    };
    let good = world::lease(flow, world::NODE2, way);
    let node = random.pick(&[world::NODE3, world::NODE_UNKNOWN]);
    match random.below(13) {
        0 => Lease { expires: world::OVER, ..good },
        1 => Lease { epoch: random.pick(&[0, world::EPOCH - 1, world::EPOCH + 1]), ..good },
        2 => Lease { node: node.into(), index: world::node_index(node), ..good },
        3 => Lease { endpoint: random.pick(&[0, world::NEIGHBOUR_IF].map(IfIndex)), ..good },
        4 => Lease { flow: Flow { destination: random.pick(&ADDRESSES).into(), ..*flow }, ..good },
        5 => Lease {
            slots: EpochSlots { remote: random.bits() as u16, local: random.bits() as u16 },
            ..good
        },
        6 => world::going(random.pick(&ways), good),
        _ => good,
    }
}

/// One small wrong.
fn spoil(random: &mut Random, bytes: &mut Vec<u8>) {
    let headers = bytes.len().min(ETHERNET + 2 * IPV4 + 20);
    let layer = ETHERNET + if random.one_in(2) { 0 } else { IPV4 };
    match random.below(10) {
        0 => {
            let at = random.below(headers);
            bytes[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(headers);
            bytes[at] = random.byte();
        }
        2 => bytes.truncate(ETHERNET + IPV4 + random.below(bytes.len())),
        3 => put(bytes, layer + 12, &random.pick(&ADDRESSES).octets()),
        4 => put(bytes, layer + 16, &random.pick(&ADDRESSES).octets()),
        5 => {
            let length = random.pick(&[0, 1, 19, 20, 39, 40, 41, 0x8000, 0xffff]);
            put(bytes, layer + 2, &u16::to_be_bytes(length));
        }
        6 => {
            let length = (bytes.len() as u16).wrapping_sub(random.below(90) as u16);
            put(bytes, layer + 2, &length.to_be_bytes());
        }
        7 => put(bytes, layer + 9, &[random.pick(&[1, 4, 6, 17, 41])]),
        8 => put(bytes, layer + 1, &[random.byte()]),
        _ => put(bytes, layer, &[0x40 | random.byte() & 15]),
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Makes the checksum of the twenty bytes at `at` right.
fn mend(bytes: &mut [u8], at: usize) {
    put(bytes, at + 10, &[0, 0]);
    if let Some(header) = bytes.get(at..at + IPV4) {
        let checksum = Sum16BitWords::new().add_slice(header).ones_complement().to_be();
        put(bytes, at + 10, &checksum.to_be_bytes());
    }
}
