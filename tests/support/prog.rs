//! The object loaded into the kernel, its maps filled from [`super::world`],
//! its programs run on packets by `BPF_PROG_TEST_RUN`.

use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{Program as AyaProgram, ProgramError, SchedClassifier, Xdp},
    util::nr_cpus,
};
use dataplane_common::{
    Arrival, Counter, EndpointEntry, Epochs, Flow, IfIndex, Ipv4Be, Lease, LinkState, NodeCounter,
    NodeEntry, Reason, Settings, Unanswered, UnansweredSet,
};
use dataplane_user::{
    bpf::{
        by_address::ByAddress,
        handovers::Links,
        masks::Masks,
        routes::Routes,
        shadow::{self, ShadowMaps},
    },
    clock,
    object::DATAPLANE,
};
use ipnet::Ipv4Net;

pub use dataplane_common::Program;

pub use super::run::{Action, Context, Counters, Ran, Size};
use super::{
    idle::{time, time_xdp},
    signed::{read, written},
    test_run::Run,
    trampoline::Trampoline,
    world::{self, Entry},
};

/// The object in the kernel.
pub struct Loaded {
    ebpf: Ebpf,
    routes: Routes,
    masks: Masks,
    nodes: ByAddress<NodeEntry>,
    endpoints: ByAddress<EndpointEntry>,
    leases: HashMap<MapData, Flow, Lease>,
    seen: Array<MapData, Arrival>,
    unanswered: Array<MapData, UnansweredSet>,
    epochs: Array<MapData, Epochs>,
    kept_at: Array<MapData, u64>,
    try_ends: Array<MapData, u64>,
    links: Links,
    trampolines: BTreeMap<Program, Trampoline>,
    counters: PerCpuArray<MapData, Counter>,
    node_counters: PerCpuArray<MapData, NodeCounter>,
}

/// Of `bpf(2)`: create, never overwrite. A table must not shadow the world.
const NO_EXIST: u64 = 1;

impl Loaded {
    /// Loads all programs with `settings` and the maps of [`world::entries`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with(settings, &world::entries())
    }

    /// As [`Loaded::new`], with these lines in the maps.
    #[must_use]
    pub fn with(settings: Settings, entries: &[Entry]) -> Self {
        let silent = 0_u8;
        let mut loader = EbpfLoader::new();
        loader.override_global("SETTINGS", &settings, true);
        loader.override_global("AYA_LOG_LEVEL", &silent, true);
        shadow::size(&mut loader);
        let mut ebpf = loader.load(DATAPLANE).expect("the object loads: these tests run as root");
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                AyaProgram::SchedClassifier(program) => program.load(),
                AyaProgram::Xdp(program) => program.load(),
                _ => panic!("{name} is neither TC nor XDP"),
            };
            loaded.unwrap_or_else(|error| panic!("the verifier refuses {name}: {error:#?}"));
        }
        let mut take = |name| ebpf.take_map(name).expect("the object has the map");
        let routes = Routes::new(take("ROUTES")).expect("ROUTES is of the type we think");
        let masks = Masks::new(take("MASKS")).expect("MASKS is of the type we think");
        let nodes = ByAddress::new(take("NODES")).expect("NODES is of the type we think");
        let endpoints = ByAddress::new(take("ENDPOINTS")).expect("ENDPOINTS is, too");
        let links = Links::new(take("LINKS")).expect("LINKS is, too");
        let leases = map(&mut ebpf, "LEASES");
        let seen = map(&mut ebpf, "SEEN");
        let unanswered = map(&mut ebpf, "UNANSWERED");
        let mut epochs: Array<_, Epochs> = map(&mut ebpf, "EPOCH");
        epochs.set(0, world::EPOCHS, 0).expect("the epochs can be set");
        let mut kept_at: Array<_, u64> = map(&mut ebpf, "KEPT_AT");
        kept_at.set(0, u64::MAX, 0).expect("the time can be set");
        let try_ends = map(&mut ebpf, "TRY");
        let counters = map(&mut ebpf, "COUNTERS");
        let node_counters = map(&mut ebpf, "NODE_COUNTERS");
        let trampolines = BTreeMap::new();
        let mut loaded = Self {
            ebpf,
            routes,
            masks,
            nodes,
            endpoints,
            leases,
            seen,
            unanswered,
            epochs,
            kept_at,
            try_ends,
            links,
            trampolines,
            counters,
            node_counters,
        };
        for entry in entries {
            loaded.add(entry);
        }
        loaded.set_link(world::PROVEN);
        loaded
    }

    /// Writes one line into its map.
    pub fn add(&mut self, entry: &Entry) {
        let result = match *entry {
            Entry::Route(prefix, length, route) => {
                self.masks.insert(length).expect("its length can be looked for");
                self.routes.insert(net(prefix, length), route, NO_EXIST)
            }
            Entry::Node(address, node) => {
                let value = (node, world::node_index(address));
                self.nodes.insert(Ipv4Be::from(address), value, NO_EXIST)
            }
            Entry::Endpoint(address, endpoint) => {
                self.endpoints.insert(Ipv4Be::from(address), endpoint, NO_EXIST)
            }
            Entry::Kept(ago) => {
                let at = clock::monotonic().checked_sub(ago).expect("this host is up for longer");
                let at = u64::try_from(at.as_nanos()).expect("this host is not up for so long");
                self.kept_at.set(0, at, 0).expect("the time can be set");
                Ok(())
            }
            Entry::TryEnds(end) => self.try_ends.set(0, end, 0),
            Entry::RaisedRemote(_) | Entry::RaisedLocal(_) => {
                let mut epochs = self.epochs.get(&0, 0).expect("the epochs can be read");
                entry.raise(&mut epochs);
                self.epochs.set(0, epochs, 0)
            }
            Entry::Seen(tag, arrival) => self.seen.set(u32::from(tag), arrival, 0),
            Entry::Lease(flow, lease) => self.leases.insert(flow, written(&flow, lease), NO_EXIST),
        };
        result.unwrap_or_else(|error| panic!("{entry:?} goes into its map: {error}"));
    }

    /// Takes it out again.
    pub fn remove(&mut self, entry: &Entry) {
        let result = match *entry {
            Entry::Route(prefix, length, _) => self.routes.remove(net(prefix, length)),
            Entry::Node(address, _) => {
                let counted = self.node_counters.set(world::node_index(address).0, zeros(), 0);
                counted.and_then(|()| self.nodes.remove(address.into()))
            }
            Entry::Endpoint(address, _) => self.endpoints.remove(address.into()),
            Entry::Kept(_) => {
                self.kept_at.set(0, u64::MAX, 0).expect("the time can be set");
                Ok(())
            }
            Entry::TryEnds(_) => self.try_ends.set(0, 0, 0),
            Entry::RaisedRemote(_) | Entry::RaisedLocal(_) => self.epochs.set(0, world::EPOCHS, 0),
            Entry::Seen(tag, _) => self.seen.set(u32::from(tag), Arrival::default(), 0),
            // Whether a program left it or not.
            Entry::Lease(flow, _) => {
                let _ = self.leases.remove(&flow);
                Ok(())
            }
        };
        result.unwrap_or_else(|error| panic!("{entry:?} comes out of its map: {error}"));
    }

    /// Which lengths of prefixes programs look for.
    pub fn masks(&mut self) -> &mut Masks {
        &mut self.masks
    }

    /// Node IP → the way there.
    pub fn nodes(&mut self) -> &mut ByAddress<NodeEntry> {
        &mut self.nodes
    }

    /// Pod IP → its interface.
    pub fn endpoints(&mut self) -> &mut ByAddress<EndpointEntry> {
        &mut self.endpoints
    }

    /// Prefix → node.
    pub fn routes(&mut self) -> &mut Routes {
        &mut self.routes
    }

    /// What is noted under a flow tag.
    #[must_use]
    pub fn seen(&self, tag: u16) -> Arrival {
        self.seen.get(&u32::from(tag), 0).expect("each tag has its place")
    }

    /// The flows that get no answer, place by place: here they have one set.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Unanswered> {
        self.unanswered.get(&0, 0).expect("there is one set").flows.to_vec()
    }

    /// These, from the first place on, and no others.
    pub fn set_unanswered(&mut self, flows: &[Unanswered]) {
        let mut set = UnansweredSet::default();
        set.flows[..flows.len()].copy_from_slice(flows);
        self.unanswered.set(0, set, 0).expect("the set can be written");
    }

    /// The lease of one flow.
    #[must_use]
    pub fn lease(&self, flow: &Flow) -> Option<Lease> {
        self.leases.get(flow, 0).ok().map(|lease| read(flow, lease))
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> Vec<(Flow, Lease)> {
        let leases = self.leases.iter().map(|entry| entry.expect("LEASES can be read"));
        leases.map(|(flow, lease)| (flow, read(&flow, lease))).collect()
    }

    /// These leases and no others.
    pub fn set_leases(&mut self, leases: &[(Flow, Lease)]) {
        for (flow, _) in self.leases() {
            self.leases.remove(&flow).expect("a lease can be removed");
        }
        for (flow, lease) in leases {
            self.leases
                .insert(flow, written(flow, *lease), NO_EXIST)
                .expect("a lease can be written");
        }
    }

    /// What is known of hand-overs by the NIC, whatever its index is in a test run.
    pub fn set_link(&mut self, link: LinkState) {
        for ifindex in [world::NIC_IF, world::TEST_RUN_IF] {
            let link = LinkState { ifindex: IfIndex(ifindex), ..link };
            self.links.set(link).expect("LINKS can be written");
        }
    }

    /// As `program` left it.
    #[must_use]
    pub fn link(&self, program: Program) -> LinkState {
        let ifindex = match program {
            Program::DecapXdp => world::TEST_RUN_IF,
            _ => world::NIC_IF,
        };
        self.links.all().expect("LINKS can be read")[&IfIndex(ifindex)]
    }

    /// What the programs of `mode: shadow` write.
    pub fn shadow(&mut self) -> ShadowMaps {
        ShadowMaps::take(&mut self.ebpf).expect("nothing else has taken the maps")
    }

    /// A TC program, to attach it or to look at it.
    pub fn classifier(&mut self, program: Program) -> &mut SchedClassifier {
        let program =
            self.ebpf.program_mut(program.as_str()).expect("the program is in the object");
        program.try_into().expect("it is a classifier")
    }

    /// The XDP program.
    pub fn xdp(&mut self) -> &mut Xdp {
        let program = self
            .ebpf
            .program_mut(Program::DecapXdp.as_str())
            .expect("the program is in the object");
        program.try_into().expect("it is an XDP program")
    }

    /// How much there is of a program.
    pub fn size(&mut self, program: Program) -> Size {
        let info = match program {
            Program::DecapXdp => self.xdp().info(),
            _ => self.classifier(program).info(),
        };
        let info = info.expect("a loaded program has an info");
        Size {
            verified: info.verified_instruction_count().unwrap_or(0),
            translated: info.size_translated().unwrap_or(0) / 8,
        }
    }

    /// Runs `program` on `packet`. `None` if the kernel does not let it near
    /// such a frame (`EINVAL`: shorter than a test run takes).
    #[must_use]
    pub fn run(&mut self, program: Program, packet: &[u8], context: &Context) -> Option<Ran> {
        if program == Program::DecapXdp {
            return self.run_xdp(packet, context);
        }
        let (mut out, mut skb) = (vec![0; packet.len() + 512], context.skb());
        let returned = self.trampoline(program).run(&mut Run {
            packet,
            out: &mut out,
            context: &mut skb,
            tc_index: context.tag,
            repeat: context.repeat,
        });
        let action = Action::new(program, took(program, packet, returned)?.returned);
        let mark = u32::from_ne_bytes(skb[8..12].try_into().expect("four bytes"));
        Some(Ran { action, packet: out, metadata: Vec::new(), mark })
    }

    /// Runs a TC program and looks at nothing but `skb->tc_index` afterwards.
    /// That takes a run of its own, so every map is written to once more.
    #[must_use]
    pub fn tag(&mut self, program: Program, packet: &[u8], context: &Context) -> Option<u32> {
        let (mut out, mut skb) = (vec![0; packet.len() + 512], context.skb());
        let tag = self.trampoline(program).tc_index(&mut Run {
            packet,
            out: &mut out,
            context: &mut skb,
            tc_index: context.tag,
            repeat: context.repeat,
        });
        took(program, packet, tag)
    }

    /// How long `program` runs for `packet`, with all that [`super::idle::Idle`] takes, too.
    #[must_use]
    pub fn time(&mut self, program: Program, packet: &[u8], context: &Context) -> Duration {
        if program == Program::DecapXdp {
            let xdp = self.xdp().fd().expect("it is loaded").as_fd();
            return time_xdp(xdp, packet, context);
        }
        time(self.trampoline(program), packet, context)
    }

    fn trampoline(&mut self, program: Program) -> &Trampoline {
        let Self { ebpf, trampolines, .. } = self;
        trampolines.entry(program).or_insert_with(|| {
            let loaded = ebpf.program(program.as_str()).expect("the program is in the object");
            Trampoline::new(loaded.fd().expect("it is loaded").as_fd())
        })
    }

    fn run_xdp(&mut self, packet: &[u8], context: &Context) -> Option<Ran> {
        let program = Program::DecapXdp;
        let mut out = vec![0; context.metadata.len() + packet.len() + 512];
        let ctx_in = context.xdp(packet.len());
        let mut ctx_out = vec![0; ctx_in.len()];
        let data_in = [&context.metadata, packet].concat();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&data_in);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&ctx_in);
        options.ctx_out = Some(&mut ctx_out);
        options.repeat = context.repeat;
        let ran = match self.xdp().test_run(options) {
            Ok(ran) => ran,
            Err(ProgramError::SyscallError(error)) if is_invalid(&error.io_error) => return None,
            Err(error) => panic!("running {program} on {} bytes: {error:?}", packet.len()),
        };
        out.truncate(ran.data_size_out as usize);
        let metadata = u32::from_ne_bytes([ctx_out[0], ctx_out[1], ctx_out[2], ctx_out[3]]);
        let packet = out.split_off(metadata as usize);
        let action = Action::new(program, ran.return_value as i32);
        Some(Ran { action, packet, metadata: out, mark: context.mark })
    }

    /// Runs the XDP program on a frame that then goes up the stack from
    /// `interface`, as if its driver had received it.
    pub fn run_live(&mut self, interface: u32, frame: &[u8], metadata: &[u8]) {
        let context = Context { metadata: metadata.to_vec(), ..Context::new(Program::DecapXdp) };
        let mut ctx_in = context.xdp(frame.len());
        ctx_in[12..16].copy_from_slice(&interface.to_ne_bytes());
        let data_in = [metadata, frame].concat();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&data_in);
        options.ctx_in = Some(&ctx_in);
        options.attrs = TestRunAttrs::new().xdp_live_frames(1);
        self.xdp().test_run(options).expect("XDP test runs can be live");
    }

    /// One reason's counter.
    #[must_use]
    pub fn counter(&self, reason: Reason) -> Counter {
        let cpus = self.counters.get(&(reason as u32), 0).expect("every reason has a counter");
        cpus.iter().fold(Counter::default(), |sum, cpu| add(sum, *cpu))
    }

    /// All counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let reasons = Reason::ALL.iter().map(|reason| (*reason, self.counter(*reason)));
        let nodes = self.nodes.iter().map(|entry| {
            let (address, (_, index)) = entry.expect("NODES can be read");
            let cpus = self.node_counters.get(&index.0, 0).expect("NODE_COUNTERS can be read");
            let sum = cpus.iter().fold(NodeCounter::default(), |sum, cpu| NodeCounter {
                encap: add(sum.encap, cpu.encap),
                decap: add(sum.decap, cpu.decap),
                last_seen: sum.last_seen.max(cpu.last_seen),
                forged: sum.forged + cpu.forged,
            });
            (Ipv4Addr::from(address), sum)
        });
        Counters {
            reasons: reasons.filter(|(_, counter)| *counter != Counter::default()).collect(),
            nodes: nodes.collect(),
        }
    }

    /// Sets all counters to zero.
    pub fn reset(&mut self) {
        for reason in Reason::ALL {
            self.counters.set(*reason as u32, zeros(), 0).expect("a counter can be set");
        }
        for node in self.nodes.iter() {
            let (_, (_, index)) = node.expect("NODES can be read");
            self.node_counters.set(index.0, zeros(), 0).expect("a counter can be set");
        }
    }
}

fn net(prefix: Ipv4Addr, length: u8) -> Ipv4Net {
    Ipv4Net::new(prefix, length).expect("a length of a prefix")
}

fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &str) -> T {
    let map = ebpf.take_map(name).unwrap_or_else(|| panic!("the object has a map {name}"));
    T::try_from(map).unwrap_or_else(|error| panic!("{name} is of the type we think: {error}"))
}

fn zeros<T: aya::Pod + Default>() -> PerCpuValues<T> {
    let cpus = nr_cpus().unwrap_or_else(|(what, error)| panic!("{what}: {error}"));
    let values = vec![T::default(); cpus];
    PerCpuValues::try_from(values).expect("one value for each CPU")
}

const fn add(a: Counter, b: Counter) -> Counter {
    Counter { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

/// `None` if the kernel takes no such frame.
fn took<T>(program: Program, packet: &[u8], result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if is_invalid(&error) => None,
        Err(error) => panic!("running {program} on {} bytes: {error}", packet.len()),
    }
}

fn is_invalid(error: &Error) -> bool {
    error.kind() == ErrorKind::InvalidInput
}
