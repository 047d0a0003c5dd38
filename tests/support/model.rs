//! What the programs ought to do, said a second time.
//!
//! Written from `design.md`, RFC 2003 and RFC 6040 over plain byte slices,
//! slow and simple; it shares no header code with the programs, only the
//! names of the reasons and the map entries of [`super::world`].

use std::net::Ipv4Addr;

use dataplane_common::{Direction, Endpoint, Node, Reason, Route, Settings};
use etherparse::{IpNumber, Ipv4Header, checksum::Sum16BitWords};

use super::{
    packet::{ETHERNET, IPV4, Mac},
    prog::{Action, Program, Ran},
    world::{Entry, HOST_MAC, NIC_MAC, POD_IF, SECRET},
};

/// What must come of a packet.
pub struct Prediction {
    /// Action, packet and metadata.
    pub ran: Ran,
    /// What is counted, with how many bytes.
    pub count: Option<(Reason, u64)>,
    /// What is counted for a node.
    pub node: Option<(Ipv4Addr, Direction, u64)>,
}

/// A node's maps and settings.
pub struct Model {
    settings: Settings,
    routes: Vec<(u32, u8, Route)>,
    nodes: Vec<(Ipv4Addr, Node)>,
    endpoints: Vec<(Ipv4Addr, Endpoint)>,
}

/// An IPv4 header and what follows.
#[derive(Clone, Copy)]
struct Ip<'a>(&'a [u8]);

impl Ip<'_> {
    fn is_sane(self) -> bool {
        self.0[0] >> 4 == 4 && self.header() >= IPV4
    }
    fn header(self) -> usize {
        usize::from(self.0[0] & 15) * 4
    }
    fn total(self) -> usize {
        usize::from(u16::from_be_bytes([self.0[2], self.0[3]]))
    }
    fn is_fragment(self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) & 0x3fff != 0
    }
    fn ttl(self) -> u8 {
        self.0[8]
    }
    fn protocol(self) -> u8 {
        self.0[9]
    }
    fn checks(self) -> bool {
        Sum16BitWords::new().add_slice(&self.0[..IPV4]).ones_complement() == 0
    }
    fn source(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }
    fn destination(self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }
}

/// A header byte changes, the checksum with it (RFC 1624 §3): a wrong one
/// stays wrong by as much.
fn set(ip: &mut [u8], at: usize, value: u8) {
    let word = |ip: &[u8]| u32::from(u16::from_be_bytes([ip[at & !1], ip[at | 1]]));
    let old = word(ip);
    ip[at] = value;
    let checksum = u32::from(u16::from_be_bytes([ip[10], ip[11]]));
    let mut sum = (checksum ^ 0xffff) + (old ^ 0xffff) + word(ip);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = !(sum as u16);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

impl Model {
    /// Of a node with these settings and maps.
    #[must_use]
    pub fn new(settings: Settings, entries: &[Entry]) -> Self {
        let mut model =
            Self { settings, routes: Vec::new(), nodes: Vec::new(), endpoints: Vec::new() };
        for entry in entries {
            match *entry {
                Entry::Route(prefix, length, route) => {
                    model.routes.push((prefix.to_bits(), length, route));
                }
                Entry::Node(address, node) => model.nodes.push((address, node)),
                Entry::Endpoint(address, endpoint) => model.endpoints.push((address, endpoint)),
            }
        }
        model.routes.sort_by_key(|(_, length, _)| std::cmp::Reverse(*length));
        model
    }

    fn route(&self, address: Ipv4Addr) -> Option<Route> {
        let covers = |(prefix, length, _): &&(u32, u8, Route)| {
            (address.to_bits() ^ prefix).checked_shr(32 - u32::from(*length)).unwrap_or(0) == 0
        };
        self.routes.iter().find(covers).map(|(_, _, route)| *route)
    }

    fn node(&self, address: Ipv4Addr) -> Option<Node> {
        self.nodes.iter().find(|(node, _)| *node == address).map(|(_, node)| *node)
    }

    fn endpoint(&self, address: Ipv4Addr) -> Option<Endpoint> {
        self.endpoints.iter().find(|(pod, _)| *pod == address).map(|(_, endpoint)| *endpoint)
    }

    /// What `program` must make of `frame` (34 bytes at least) on its interface.
    #[must_use]
    pub fn predict(&self, program: Program, frame: &[u8]) -> Prediction {
        let verdict = match program {
            Program::EncapPod => self.encap(true, frame),
            Program::EncapHost => self.encap(false, frame),
            Program::DecapTc => self.decap(false, frame),
            Program::DecapXdp => self.decap(true, frame),
            Program::GrantDecap => Err(No::Pass(Reason::GrantNoFlow)),
        };
        let mut prediction = Prediction {
            ran: Ran { action: Action::Pass, packet: frame.to_vec(), metadata: Vec::new() },
            count: None,
            node: None,
        };
        let bytes = (frame.len() - ETHERNET) as u64;
        match verdict {
            Ok(Sent { reason, packet, node, bytes: inner }) => {
                prediction.ran.packet = packet;
                prediction.count = Some((reason, bytes));
                if program == Program::DecapXdp {
                    prediction.ran.metadata = [SECRET.to_ne_bytes(), node.octets()].concat();
                } else {
                    prediction.ran.action = Action::Redirect;
                    let direction = match program {
                        Program::DecapTc => Direction::Decap,
                        _ => Direction::Encap,
                    };
                    prediction.node = Some((node, direction, inner as u64));
                }
            }
            Err(No::Drop(reason)) => {
                prediction.ran.action = Action::Drop;
                prediction.count = Some((reason, bytes));
            }
            // XDP leaves it to TC without a word.
            Err(No::Pass(_)) if program == Program::DecapXdp => {}
            Err(No::Pass(reason)) => prediction.count = Some((reason, bytes)),
        }
        prediction
    }

    fn encap(&self, pod: bool, frame: &[u8]) -> Result<Sent, No> {
        // One check, two names, two verdicts.
        let no = |at_pod, at_host| if pod { No::Pass(at_pod) } else { No::Drop(at_host) };
        let ip = Ip(&frame[ETHERNET..]);
        if frame[12..14] != [0x08, 0x00] {
            return Err(no(Reason::PodNotIpv4, Reason::HostNotIpv4));
        }
        if !ip.is_sane() || ip.total() < ip.header() || ip.total() > ip.0.len() {
            return Err(no(Reason::PodBadHeader, Reason::HostBadHeader));
        }
        let tcp = ip.protocol() == 6 && !ip.is_fragment();
        if pod && tcp && ip.total() < ip.header() + 14 {
            return Err(No::Pass(Reason::PodTruncated));
        }
        if pod && self.endpoint(ip.source()).is_none_or(|endpoint| endpoint.ifindex != POD_IF) {
            return Err(No::Pass(Reason::PodForgedSource));
        }
        let route = self.route(ip.destination()).filter(|route| route.flags == 0);
        let address = route.ok_or_else(|| no(Reason::PodNoRoute, Reason::HostNoRoute))?.node.into();
        let node = self
            .node(address)
            .filter(|node| node.ifindex != 0)
            .ok_or_else(|| no(Reason::PodNodeUnreachable, Reason::HostNodeUnreachable))?;
        // A pod's packet has our hop ahead of it, the stack's has it behind.
        let ttl = ip.ttl().saturating_sub(u8::from(pod));
        if ttl == 0 {
            return Err(no(Reason::PodTtlExpired, Reason::HostTtlExpired));
        }
        if ip.total() + IPV4 > node.mtu as usize {
            return Err(no(Reason::PodTooBig, Reason::HostTooBig));
        }
        if pod && ip.header() > IPV4 {
            return Err(No::Pass(Reason::PodOptions));
        }
        if pod && ip.is_fragment() {
            return Err(No::Pass(Reason::PodFragment));
        }
        if pod && !ip.checks() {
            return Err(No::Pass(Reason::PodBadChecksum));
        }
        if pod && tcp && ip.0[ip.header() + 13] & 0b111 != 0 {
            return Err(No::Pass(Reason::PodConnectionControl));
        }

        let mut outer = Ipv4Header::new(
            ip.total() as u16,
            ttl,
            IpNumber::IPV4,
            Ipv4Addr::from(self.settings.node).octets(),
            Ipv4Addr::octets(&address),
        )
        .expect("an MTU is less than 64 KiB");
        outer.dont_fragment = true;
        outer.ecn = [
            etherparse::IpEcn::NotEct,
            etherparse::IpEcn::Ect1,
            etherparse::IpEcn::Ect0,
            etherparse::IpEcn::CongestionExperienced,
        ][usize::from(ip.0[1] & 3)];
        outer.header_checksum = outer.calc_header_checksum();
        let mut inner = ip.0[..ip.total()].to_vec();
        if pod {
            set(&mut inner, 8, ttl);
        }
        let macs = if node.next_hop.is_known() {
            [Mac::from(node.next_hop), Mac::from(node.source)].concat()
        } else {
            frame[..12].to_vec()
        };
        let packet = [&macs, &frame[12..14], &outer.to_bytes(), &inner].concat();
        let reason = if pod { Reason::PodEncapsulated } else { Reason::HostEncapsulated };
        Ok(Sent { reason, packet, node: address, bytes: ip.total() })
    }

    fn decap(&self, xdp: bool, frame: &[u8]) -> Result<Sent, No> {
        let outer = Ip(&frame[ETHERNET..]);
        let pass = |wrong, reason| if wrong { Err(No::Pass(reason)) } else { Ok(()) };
        pass(frame[12..14] != [0x08, 0x00], Reason::NotIpv4)?;
        pass(outer.protocol() != 4, Reason::NotIpip)?;
        pass(!xdp && frame[..6] != NIC_MAC, Reason::NotForHost)?;
        pass(!outer.is_sane(), Reason::OuterBadHeader)?;
        pass(outer.header() != IPV4, Reason::OuterOptions)?;
        pass(!outer.checks(), Reason::OuterBadChecksum)?;
        pass(outer.is_fragment(), Reason::OuterFragment)?;
        pass(outer.total() < IPV4 || outer.total() > outer.0.len(), Reason::OuterBadLength)?;
        pass(outer.destination() != Ipv4Addr::from(self.settings.node), Reason::OtherDestination)?;
        let Some(node) = self.node(outer.source()) else {
            return Err(No::Pass(Reason::UnknownNode));
        };
        pass(xdp && frame[..6] != Mac::from(node.source), Reason::NotForHost)?;
        pass(outer.total() < 2 * IPV4, Reason::InnerTruncated)?;
        let inner = Ip(&outer.0[IPV4..]);
        pass(!inner.is_sane(), Reason::InnerBadHeader)?;
        let carried = outer.total() - IPV4;
        pass(inner.total() < inner.header() || inner.total() > carried, Reason::InnerBadLength)?;
        pass(inner.header() == IPV4 && !inner.checks(), Reason::InnerBadChecksum)?;
        pass(matches!(inner.protocol(), 4 | 41), Reason::NestedTunnel)?;

        let lie = self.lie(outer.source(), inner.source())?;
        if let Some((drop, _)) = lie
            && self.settings.spoof == Settings::SPOOF_DROP
        {
            return Err(No::Drop(drop));
        }
        let (outside, inside) = (outer.0[1] & 3, inner.0[1] & 3);
        // RFC 6040 §4.2 in words: CE and ECT(1) outside count, if inside is capable.
        let ecn = match (inside, outside) {
            (0, 3) => return Err(No::Drop(Reason::EcnViolation)),
            (0, _) => 0,
            (_, 3) => 3,
            (2, 1) => 1,
            (inside, _) => inside,
        };
        if inner.ttl() == 0 {
            return Err(No::Drop(Reason::InnerTtlZero));
        }
        // What XDP does not drop for good it does not touch either.
        pass(xdp && lie.is_some(), Reason::SourceUnknown)?;

        let mut ip = inner.0.to_vec();
        if ecn != inside {
            set(&mut ip, 1, inner.0[1] & !3 | ecn);
        }
        let mut macs = frame[..12].to_vec();
        let reason = if xdp {
            Reason::XdpUnwrapped
        } else {
            match (lie, self.pod(inner)) {
                (None, Ok(endpoint)) => {
                    set(&mut ip, 8, inner.ttl() - 1);
                    macs = [Mac::from(endpoint.pod), HOST_MAC].concat();
                    Reason::ToPod
                }
                (lie, pod) => {
                    macs[..6].copy_from_slice(&Mac::from(self.settings.tunnel_mac));
                    lie.map(|(_, to_stack)| to_stack).or(pod.err()).expect("a reason not to")
                }
            }
        };
        let packet = [&macs, &frame[12..14], &ip].concat();
        Ok(Sent { reason, packet, node: outer.source(), bytes: inner.total() })
    }

    /// What is wrong with the inner source: its names if dropped and if not.
    fn lie(&self, node: Ipv4Addr, source: Ipv4Addr) -> Result<Option<(Reason, Reason)>, No> {
        let [first, ..] = source.octets();
        if first == 0 || first == 127 || first >= 224 {
            return Ok(Some((Reason::MartianSource, Reason::MartianToStack)));
        }
        match self.route(source) {
            Some(route) if route.flags & Route::LOCAL != 0 => {
                Ok(Some((Reason::OwnSource, Reason::OwnToStack)))
            }
            _ if source == node => Ok(None),
            Some(route) if Ipv4Addr::from(route.node) == node => Ok(None),
            Some(_) => Ok(Some((Reason::ForgedSource, Reason::ForgedToStack))),
            None => Err(No::Pass(Reason::SourceUnknown)),
        }
    }

    /// The pod that takes it straight, or why none does.
    fn pod(&self, inner: Ip) -> Result<Endpoint, Reason> {
        if self.settings.fastpath == Settings::OFF {
            return Err(Reason::ToStack);
        }
        if inner.ttl() == 1 {
            return Err(Reason::TtlToStack);
        }
        if inner.header() > IPV4 {
            return Err(Reason::OptionsToStack);
        }
        if inner.is_fragment() {
            return Err(Reason::FragmentToStack);
        }
        let endpoint = self.endpoint(inner.destination());
        endpoint.filter(|endpoint| endpoint.pod.is_known()).ok_or(Reason::NoEndpointToStack)
    }
}

/// A packet on its way.
struct Sent {
    reason: Reason,
    packet: Vec<u8>,
    node: Ipv4Addr,
    bytes: usize,
}

/// Why not.
enum No {
    Pass(Reason),
    Drop(Reason),
}
