//! What the programs ought to do, said a second time.
//!
//! Written from `design.md`, RFC 2003 and RFC 6040 over plain byte slices,
//! slow and simple; it shares no header code with the programs, only the
//! names of the reasons, the map entries of [`super::world`] and the arithmetic
//! of [`Flow::proof`].

use std::net::Ipv4Addr;

use dataplane_common::{
    Direction, Endpoint, Flow, Lease, Mac as MapMac, Node, Reason, Route, Settings,
};
use etherparse::{IpNumber, Ipv4Header, checksum::Sum16BitWords};

use super::{
    packet::{ETHERNET, IPV4, Mac},
    prog::{Action, Context, Program, Ran},
    world::{EPOCH, Entry, HOST_MAC, LATER, NIC_MAC, POD_IF, SECRET, TUNNEL_IF},
};

/// What must come of a packet.
pub struct Prediction {
    /// Action, packet, metadata and mark.
    pub ran: Ran,
    /// `skb->tc_index`.
    pub proof: u16,
    /// The flow whose lease, or whose answers' lease, may have changed.
    pub flow: Option<Flow>,
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
    /// [`LATER`] stands for good, whatever a program has granted included.
    leases: Vec<(Flow, Lease)>,
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

    /// Whose packet it is, and whether it begins or ends a connection.
    fn flow(self, direction: u8) -> Result<(Flow, bool), NoFlow> {
        if self.header() > IPV4 {
            return Err(NoFlow::Options);
        }
        if self.is_fragment() {
            return Err(NoFlow::Fragment);
        }
        let least = IPV4 + if self.protocol() == 6 { 20 } else { 8 };
        if self.total() != 0 && self.total() < least {
            return Err(NoFlow::NoPorts);
        }
        let transport = &self.0[IPV4..];
        let enough = match self.protocol() {
            6 => transport.len() >= 14,
            17 => transport.len() >= 4,
            _ => false,
        };
        if !enough {
            return Err(NoFlow::NoPorts);
        }
        let flow = Flow {
            source: self.source().into(),
            destination: self.destination().into(),
            source_port: u16::from_ne_bytes([transport[0], transport[1]]),
            destination_port: u16::from_ne_bytes([transport[2], transport[3]]),
            protocol: self.protocol(),
            direction,
            reserved: 0,
        };
        Ok((flow, self.protocol() == 6 && transport[13] & 0b111 != 0))
    }
}

/// Why a packet is never leased.
enum NoFlow {
    Options,
    Fragment,
    NoPorts,
}

/// What a hook behind netfilter does about a lease.
enum Settled {
    Granted,
    Leased,
    Unmarked,
    Unproven,
    Control,
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
        let mut model = Self {
            settings,
            routes: Vec::new(),
            nodes: Vec::new(),
            endpoints: Vec::new(),
            leases: Vec::new(),
        };
        for entry in entries {
            match *entry {
                Entry::Route(prefix, length, route) => {
                    model.routes.push((prefix.to_bits(), length, route));
                }
                Entry::Node(address, node) => model.nodes.push((address, node)),
                Entry::Endpoint(address, endpoint) => model.endpoints.push((address, endpoint)),
                Entry::Lease(flow, lease) => model.leases.push((flow, lease)),
            }
        }
        model.routes.sort_by_key(|(_, length, _)| std::cmp::Reverse(*length));
        model
    }

    /// The settings it was made with.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// All leases; one that a program granted ends [`LATER`].
    #[must_use]
    pub fn leases(&self) -> &[(Flow, Lease)] {
        &self.leases
    }

    /// These leases and no others.
    pub fn set_leases(&mut self, leases: &[(Flow, Lease)]) {
        self.leases = leases.to_vec();
    }

    /// The lease of one flow, good or not.
    #[must_use]
    pub fn lease(&self, flow: &Flow) -> Option<Lease> {
        self.leases.iter().find(|(of, _)| of == flow).map(|(_, lease)| *lease)
    }

    /// The lease of a flow if it is good, or the names of what is wrong with it.
    fn good_lease<T>(&self, flow: &Flow, [none, expired, outdated]: [T; 3]) -> Result<Lease, T> {
        match self.lease(flow) {
            Some(lease) if lease.destination == flow.destination => {
                if lease.epoch != EPOCH {
                    Err(outdated)
                } else if lease.expires == LATER {
                    Ok(lease)
                } else {
                    Err(expired)
                }
            }
            _ => Err(none),
        }
    }

    fn use_lease(&mut self, flow: &Flow, bytes: usize) {
        for (_, lease) in self.leases.iter_mut().filter(|(of, _)| of == flow) {
            lease.packets += 1;
            lease.bytes += bytes as u64;
        }
    }

    fn revoke(&mut self, flow: &Flow) {
        self.leases.retain(|(of, _)| *of != *flow && *of != flow.reverse());
    }

    /// What becomes of the lease behind netfilter. `claim`: node, interface and way.
    fn settle(
        &mut self,
        (flow, is_control): (Flow, bool),
        context: &Context,
        claim: Option<(Ipv4Addr, u32, Node)>,
    ) -> Settled {
        let right = flow.proof(SECRET);
        let verdict = if is_control {
            Settled::Control
        } else if context.mark & self.settings.mark == 0 {
            Settled::Unmarked
        } else if context.proof != 0 && context.proof != right {
            Settled::Unproven
        } else if self.good_lease(&flow, [(); 3]).is_ok() {
            return Settled::Leased;
        } else if context.proof == 0 {
            return Settled::Unproven;
        } else {
            let Some((node, endpoint, way)) = claim else { return Settled::Unproven };
            let old = self.lease(&flow).unwrap_or_default();
            let lease = Lease {
                destination: flow.destination,
                epoch: EPOCH,
                expires: LATER,
                packets: old.packets,
                bytes: old.bytes,
                node: node.into(),
                endpoint,
                way,
                reserved: 0,
            };
            self.leases.retain(|(of, _)| *of != flow);
            self.leases.push((flow, lease));
            return Settled::Granted;
        };
        self.revoke(&flow);
        verdict
    }

    fn is_verified(&self) -> bool {
        self.settings.fastpath == Settings::VERIFIED
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

    /// What `program` must make of `frame` (34 bytes at least), which comes with
    /// `context`. Leases change accordingly.
    #[must_use]
    pub fn predict(&mut self, program: Program, frame: &[u8], context: &Context) -> Prediction {
        let mut prediction = Prediction {
            ran: Ran {
                action: Action::Pass,
                packet: frame.to_vec(),
                metadata: Vec::new(),
                mark: context.mark,
            },
            proof: context.proof,
            flow: None,
            count: None,
            node: None,
        };
        let verdict = match program {
            Program::EncapPod => self.encap(true, frame, context, &mut prediction),
            Program::EncapHost => {
                if self.settings.fastpath == Settings::VERIFIED {
                    prediction.ran.mark = context.mark & !self.settings.mark;
                }
                self.encap(false, frame, context, &mut prediction)
            }
            Program::DecapTc => self.decap(false, frame, &mut prediction),
            Program::DecapXdp => self.decap(true, frame, &mut prediction),
            Program::GrantDecap => Err(No::Pass(self.grant(frame, context, &mut prediction))),
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

    fn grant(&mut self, frame: &[u8], context: &Context, prediction: &mut Prediction) -> Reason {
        let ip = Ip(&frame[ETHERNET..]);
        prediction.ran.mark = context.mark & !self.settings.mark;
        let seen = match ip.flow(Flow::DECAP) {
            Ok(seen) if frame[12..14] == [0x08, 0x00] && ip.is_sane() => seen,
            _ => return Reason::GrantNoFlow,
        };
        prediction.flow = Some(seen.0);
        let claim = || {
            let pod = self.endpoint(ip.destination())?;
            let route = self.route(ip.source())?;
            let theirs = route.flags & Route::LOCAL == 0;
            let way = Node { ifindex: pod.ifindex, mtu: 0, next_hop: pod.pod, source: pod.host };
            (context.ingress_ifindex == TUNNEL_IF
                && pod.ifindex == POD_IF
                && pod.pod.is_known()
                && theirs)
                .then_some((route.node.into(), POD_IF, way))
        };
        let claim = claim();
        match self.settle(seen, context, claim) {
            Settled::Granted => Reason::GrantGiven,
            Settled::Leased => Reason::GrantLeased,
            Settled::Unmarked => Reason::GrantUnmarked,
            Settled::Unproven => Reason::GrantUnproven,
            Settled::Control => Reason::GrantConnectionControl,
        }
    }

    /// Who gets it and how, as a lease says, or why none does.
    fn leased_encap(&self, ip: Ip, prediction: &mut Prediction) -> Result<Lease, Reason> {
        let (flow, is_control) = ip.flow(Flow::ENCAP).map_err(|no_flow| match no_flow {
            NoFlow::Options => Reason::PodOptions,
            NoFlow::Fragment => Reason::PodFragment,
            NoFlow::NoPorts => Reason::PodNoPorts,
        })?;
        if is_control {
            return Err(Reason::PodConnectionControl);
        }
        let names = [Reason::PodNoLease, Reason::PodLeaseExpired, Reason::PodLeaseOutdated];
        let lease = self.good_lease(&flow, names).inspect_err(|_| {
            prediction.proof = flow.proof(SECRET);
        })?;
        if lease.endpoint != POD_IF {
            return Err(Reason::PodForgedSource);
        }
        prediction.flow = Some(flow);
        Ok(lease)
    }

    fn encap(
        &mut self,
        pod: bool,
        frame: &[u8],
        context: &Context,
        prediction: &mut Prediction,
    ) -> Result<Sent, No> {
        // One check, two names, two verdicts.
        let no = |at_pod, at_host| if pod { No::Pass(at_pod) } else { No::Drop(at_host) };
        let leased = pod && self.is_verified();
        if leased {
            prediction.proof = 0;
        }
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
        let (address, node) = if leased {
            let lease = self.leased_encap(ip, prediction).map_err(No::Pass)?;
            (lease.node.into(), lease.way)
        } else {
            let owner = self.endpoint(ip.source()).map(|endpoint| endpoint.ifindex);
            if pod && owner != Some(POD_IF) {
                return Err(No::Pass(Reason::PodForgedSource));
            }
            let elsewhere = |route: &Route| route.flags & !Route::DIRECT == 0;
            let route = self.route(ip.destination()).filter(elsewhere);
            let route = route.ok_or_else(|| no(Reason::PodNoRoute, Reason::HostNoRoute))?;
            if pod && route.flags & Route::DIRECT != 0 {
                return Err(No::Pass(Reason::PodDirect));
            }
            let address = route.node.into();
            let node = self
                .node(address)
                .filter(|node| node.ifindex != 0)
                .ok_or_else(|| no(Reason::PodNodeUnreachable, Reason::HostNodeUnreachable))?;
            (address, node)
        };
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
        let reason = if pod {
            Reason::PodEncapsulated
        } else if self.is_verified() {
            self.settle_encap(ip, (address, node), context, prediction)
        } else {
            Reason::HostEncapsulated
        };
        if leased && let Some(flow) = &prediction.flow {
            self.use_lease(flow, ip.total());
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
        Ok(Sent { reason, packet, node: address, bytes: ip.total() })
    }

    fn settle_encap(
        &mut self,
        ip: Ip,
        (address, way): (Ipv4Addr, Node),
        context: &Context,
        prediction: &mut Prediction,
    ) -> Reason {
        let Ok(seen) = ip.flow(Flow::ENCAP) else { return Reason::HostEncapsulated };
        prediction.flow = Some(seen.0);
        let claim = self
            .endpoint(ip.source())
            .filter(|pod| pod.ifindex == context.ingress_ifindex)
            .map(|pod| (address, pod.ifindex, way));
        match self.settle(seen, context, claim) {
            Settled::Granted => Reason::HostLeaseGranted,
            Settled::Leased => Reason::HostLeased,
            Settled::Unmarked => Reason::HostUnmarked,
            Settled::Unproven => Reason::HostUnproven,
            Settled::Control => Reason::HostConnectionControl,
        }
    }

    /// The lease of a packet from `node`, and its flow, or why there is none and
    /// the proof to take along.
    fn leased_decap(&self, inner: Ip, node: Ipv4Addr) -> Result<(Flow, Lease), (Reason, u16)> {
        let (flow, is_control) = inner.flow(Flow::DECAP).map_err(|no_flow| match no_flow {
            NoFlow::Options => (Reason::OptionsToStack, 0),
            NoFlow::Fragment => (Reason::FragmentToStack, 0),
            NoFlow::NoPorts => (Reason::NoPortsToStack, 0),
        })?;
        if is_control {
            return Err((Reason::ControlToStack, 0));
        }
        let names =
            [Reason::NoLeaseToStack, Reason::LeaseExpiredToStack, Reason::LeaseOutdatedToStack];
        let proof = flow.proof(SECRET);
        let lease = self.good_lease(&flow, names).map_err(|reason| (reason, proof))?;
        if Ipv4Addr::from(lease.node) != node {
            return Err((Reason::NoLeaseToStack, proof));
        }
        Ok((flow, lease))
    }

    fn decap(&mut self, xdp: bool, frame: &[u8], prediction: &mut Prediction) -> Result<Sent, No> {
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
        // XDP asks for no lease: its checks are to hold for what GRO makes of it.
        let ask = self.is_verified() && !xdp && outer.0.len() >= 2 * IPV4;
        let leased = ask.then(|| self.leased_decap(Ip(&outer.0[IPV4..]), outer.source()));
        let vouched = matches!(leased, Some(Ok(_)));
        if !vouched {
            let Some(node) = self.node(outer.source()) else {
                return Err(No::Pass(Reason::UnknownNode));
            };
            pass(xdp && frame[..6] != Mac::from(node.source), Reason::NotForHost)?;
        }
        pass(outer.total() < 2 * IPV4, Reason::InnerTruncated)?;
        let inner = Ip(&outer.0[IPV4..]);
        pass(!inner.is_sane(), Reason::InnerBadHeader)?;
        let carried = outer.total() - IPV4;
        pass(inner.total() < inner.header() || inner.total() > carried, Reason::InnerBadLength)?;
        pass(inner.header() == IPV4 && !inner.checks(), Reason::InnerBadChecksum)?;
        pass(matches!(inner.protocol(), 4 | 41), Reason::NestedTunnel)?;

        let lie = if vouched { None } else { self.lie(outer.source(), inner.source())? };
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
            // A lie takes no proof along, nor does what has a lease and cannot use it.
            let (pod, proof) = match &leased {
                None => (self.pod(inner), 0),
                Some(Err((reason, proof))) => (Err(*reason), *proof),
                Some(Ok(_)) if inner.ttl() == 1 => (Err(Reason::TtlToStack), 0),
                Some(Ok((_, Lease { way, .. }))) => (Ok((way.next_hop, way.source)), 0),
            };
            match (lie, pod) {
                (None, Ok((pod, host))) => {
                    if let Some(Ok((flow, _))) = &leased {
                        prediction.flow = Some(*flow);
                        self.use_lease(flow, inner.total());
                    }
                    set(&mut ip, 8, inner.ttl() - 1);
                    macs = [Mac::from(pod), Mac::from(host)].concat();
                    Reason::ToPod
                }
                (lie, pod) => {
                    if self.is_verified() {
                        prediction.proof = if lie.is_some() { 0 } else { proof };
                    }
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

    /// The MACs of the pod that takes it straight, or why none does.
    fn pod(&self, inner: Ip) -> Result<(MapMac, MapMac), Reason> {
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
        endpoint
            .filter(|endpoint| endpoint.pod.is_known())
            .map(|endpoint| (endpoint.pod, HOST_MAC.into()))
            .ok_or(Reason::NoEndpointToStack)
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
