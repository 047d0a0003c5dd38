//! One row of a packet table: what goes in, what must come out, what must be
//! counted; and the runner, which reports every row that fails, not the first.

mod counted;
mod leases;
mod tried;

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr};

use dataplane_common::{Arrival, Direction, Flow, Lease, LinkState, Reason, Settings, Unanswered};

pub use self::counted::difference;
use self::{counted::judge_last_seen, leases::Becomes};
use super::{
    hex,
    netns::in_namespace,
    packet::{ETHERNET, Frame, IPV4},
    places::{self, Place},
    prog::{Action, Context, Counters, Loaded, Program, Ran},
    signed::now,
    world::{self, Entry},
};

/// A packet, the circumstances it meets, and what it must become.
#[derive(Clone)]
pub struct Case {
    /// What is being said.
    pub what: String,
    program: Program,
    fastpath: u8,
    spoof: u8,
    tunnel_header: u16,
    is_tried: bool,
    services: bool,
    unanswered: bool,
    places: Vec<Place>,
    leaves: Vec<(usize, Place)>,
    packet: Vec<u8>,
    context: Context,
    extra: Vec<Entry>,
    link: LinkState,
    action: Action,
    out: Vec<u8>,
    metadata: Vec<u8>,
    mark: u32,
    tag: u16,
    phase: u32,
    leases: Vec<(Flow, Becomes)>,
    notes: Option<Arrival>,
    counts: Vec<(Reason, u64)>,
    nodes: Vec<(Ipv4Addr, Direction, u64)>,
}

impl Case {
    /// `packet` meets `program`; fast path on, spoofs dropped, and, until the
    /// row says otherwise, nothing happens and nothing is counted.
    #[must_use]
    pub fn new(program: Program, what: impl Into<String>, packet: &Frame) -> Self {
        Self::of_bytes(program, what, packet.bytes())
    }

    /// As [`Case::new`], of raw bytes.
    #[must_use]
    pub fn of_bytes(program: Program, what: impl Into<String>, packet: Vec<u8>) -> Self {
        Self {
            what: what.into(),
            program,
            fastpath: Settings::TRUSTED,
            spoof: Settings::SPOOF_DROP,
            tunnel_header: ETHERNET as u16,
            is_tried: false,
            services: false,
            unanswered: false,
            places: Vec::new(),
            leaves: Vec::new(),
            out: packet.clone(),
            packet,
            context: Context::new(program),
            extra: Vec::new(),
            link: world::PROVEN,
            action: Action::Pass,
            metadata: Vec::new(),
            mark: 0,
            tag: 0,
            phase: LinkState::PROVEN,
            leases: Vec::new(),
            notes: None,
            counts: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// With the fast path off.
    #[must_use]
    pub fn stack_path(mut self) -> Self {
        self.fastpath = Settings::OFF;
        self
    }

    /// With the fast path by leases alone.
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.fastpath = Settings::VERIFIED;
        self
    }

    /// With leases of flows that netfilter translates for a Service.
    #[must_use]
    pub fn services(mut self) -> Self {
        self.services = true;
        self.verified()
    }

    /// With leases of UDP flows that get no answer, and these in places, from the first on.
    #[must_use]
    pub fn unanswered(mut self, places: &[Place]) -> Self {
        self.unanswered = true;
        self.places = places.to_vec();
        self.verified()
    }

    /// There is this in a place afterwards. [`Place::since`] 0: since now; else, of the same flow, it
    /// stays as it was.
    #[must_use]
    pub fn leaves_place(mut self, index: usize, place: Place) -> Self {
        self.leaves.push((index, place));
        self
    }

    /// Marked, before and, until the row says otherwise, after.
    #[must_use]
    pub fn mark(mut self, mark: u32) -> Self {
        (self.context.mark, self.mark) = (mark, mark);
        self
    }

    /// Has this mark afterwards.
    #[must_use]
    pub fn leaves_mark(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// With this in `tc_index`, before and, until the row says otherwise, after.
    #[must_use]
    pub fn tag(mut self, tag: u16) -> Self {
        (self.context.tag, self.tag) = (tag, tag);
        self
    }

    /// Has this in `tc_index` afterwards.
    #[must_use]
    pub fn leaves_tag(mut self, tag: u16) -> Self {
        self.tag = tag;
        self
    }

    /// Came in by another interface.
    #[must_use]
    pub fn came_by(mut self, ifindex: u32) -> Self {
        self.context.ingress_ifindex = ifindex;
        self
    }

    /// The lease counts the packet, an inner one of `bytes`.
    #[must_use]
    pub fn uses(mut self, flow: Flow, bytes: u64) -> Self {
        self.leases.push((flow, Becomes::Used(bytes)));
        self
    }

    /// There is this lease afterwards, good for [`world::LEASE`] from now.
    #[must_use]
    pub fn grants(mut self, flow: Flow, lease: Lease) -> Self {
        self.leases.push((flow, Becomes::Granted(lease)));
        self
    }

    /// The lease ends now, and stays in its place.
    #[must_use]
    pub fn ends(mut self, flow: Flow) -> Self {
        self.leases.push((flow, Becomes::Dead));
        self
    }

    /// This is noted under the tag that the packet leaves with.
    #[must_use]
    pub fn notes(mut self, arrival: Arrival) -> Self {
        self.notes = Some(arrival);
        self
    }

    /// There is no such lease afterwards.
    #[must_use]
    pub fn revokes(mut self, flow: Flow) -> Self {
        self.leases.push((flow, Becomes::Revoked));
        self
    }

    /// On tunl0, which has no link header: the packet begins with its IP header.
    #[must_use]
    pub fn on_tunl0(mut self) -> Self {
        self.tunnel_header = 0;
        self
    }

    /// With `spoof: stack`.
    #[must_use]
    pub fn spoof_to_stack(mut self) -> Self {
        self.spoof = Settings::SPOOF_STACK;
        self
    }

    /// On another interface.
    #[must_use]
    pub fn on(mut self, ifindex: u32) -> Self {
        self.context.ifindex = ifindex;
        self
    }

    /// As a GSO packet of no known type, which the kernel refuses to grow or shrink.
    #[must_use]
    pub fn gso_size(mut self, gso_size: u32) -> Self {
        self.context.gso_size = gso_size;
        self
    }

    /// With XDP metadata in front; it stays unless the row says otherwise.
    #[must_use]
    pub fn metadata(mut self, metadata: &[u8]) -> Self {
        self.context.metadata = metadata.to_vec();
        self.metadata = metadata.to_vec();
        self
    }

    /// With this known of hand-overs by the NIC, before and, until the row says otherwise, after.
    #[must_use]
    pub fn link(mut self, link: LinkState) -> Self {
        (self.link, self.phase) = (link, link.phase);
        self
    }

    /// With this phase of the link afterwards.
    #[must_use]
    pub fn leaves_phase(mut self, phase: u32) -> Self {
        self.phase = phase;
        self
    }

    /// With one more line in a map.
    #[must_use]
    pub fn with(mut self, entry: Entry) -> Self {
        self.extra.push(entry);
        self
    }

    /// Left as it is to whoever comes next, and counted.
    #[must_use]
    pub fn passed(mut self, reason: Reason) -> Self {
        self.action = Action::Pass;
        self.count(reason)
    }

    /// Dropped as it is, and counted.
    #[must_use]
    pub fn dropped(mut self, reason: Reason) -> Self {
        self.action = Action::Drop;
        self.count(reason)
    }

    /// Redirected as `out`, and counted, for the node it goes to or came from too.
    #[must_use]
    pub fn sent(self, reason: Reason, out: &Frame) -> Self {
        self.sent_bytes(reason, out.bytes())
    }

    /// As [`Case::sent`], as raw bytes.
    #[must_use]
    pub fn sent_bytes(mut self, reason: Reason, out: Vec<u8>) -> Self {
        self.action = Action::Redirect;
        self.out = out;
        let (outer, inner, direction) = match self.program {
            Program::EncapPod | Program::EncapHost | Program::ShadowOut => {
                (&self.out, self.out.len() - ETHERNET - IPV4, Direction::Encap)
            }
            Program::DecapTc | Program::DecapXdp | Program::GrantDecap | Program::ShadowIn => {
                (&self.packet, total_length(&self.out[ETHERNET..]), Direction::Decap)
            }
        };
        let at = ETHERNET + if direction == Direction::Encap { 16 } else { 12 };
        let node = [outer[at], outer[at + 1], outer[at + 2], outer[at + 3]];
        self.nodes.push((node.into(), direction, inner as u64));
        self.count(reason)
    }

    /// Handed by XDP to TC as `out`, with `metadata` in front, and counted.
    #[must_use]
    pub fn handed_over(mut self, reason: Reason, out: &Frame, metadata: &[u8]) -> Self {
        self.action = Action::Pass;
        self.out = out.bytes();
        self.metadata = metadata.to_vec();
        self.count(reason)
    }

    /// With this XDP metadata in front afterwards.
    #[must_use]
    pub fn leaves_metadata(mut self, metadata: &[u8]) -> Self {
        self.metadata = metadata.to_vec();
        self
    }

    /// Run once more on what the last row's run left: it must be left so, with
    /// `action`, and counted under `reason`.
    #[must_use]
    pub fn again(mut self, reason: Reason, action: Action) -> Self {
        self.context.repeat += 1;
        self.action = action;
        let bytes = (self.out.len() - ETHERNET) as u64;
        self.counts.push((reason, bytes));
        self
    }

    fn settings(&self) -> Settings {
        let settings = world::settings(self.fastpath, self.spoof);
        let (tunnel_header, is_tried) = (self.tunnel_header, self.is_tried.into());
        let settings = Settings { tunnel_header, is_tried, ..settings };
        let settings = if self.services { world::with_services(settings) } else { settings };
        if self.unanswered { world::with_unanswered(settings) } else { settings }
    }

    fn count(mut self, reason: Reason) -> Self {
        // Only the tunnel device may lack a link header.
        let header = match self.program {
            Program::EncapHost => self.tunnel_header as usize,
            _ => ETHERNET,
        };
        let bytes = (self.packet.len() - header) as u64;
        self.counts.push((reason, bytes));
        self
    }

    /// The reasons it must be counted under.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> + '_ {
        self.counts.iter().map(|(reason, _)| *reason)
    }

    /// Runs it; says what is wrong, if anything.
    fn run(&self, loaded: &mut Loaded) -> Result<(), String> {
        let (leases, others): (Vec<_>, Vec<_>) =
            self.extra.iter().partition(|entry| matches!(entry, Entry::Lease(..)));
        let leases: Vec<_> = leases
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Lease(flow, lease) => Some((flow, lease)),
                _ => None,
            })
            .collect();
        for entry in &others {
            loaded.add(entry);
        }
        loaded.set_leases(&leases);
        let tag = match self.program {
            Program::DecapXdp => Some(u32::from(self.tag)),
            program => loaded.tag(program, &self.packet, &self.context),
        };
        // That was a run, too.
        loaded.set_leases(&leases);
        let places: Vec<Unanswered> = self.places.iter().map(Place::written).collect();
        loaded.set_unanswered(&places);
        let places = loaded.unanswered();
        loaded.set_link(self.link);
        loaded.reset();
        let (before, start) = (loaded.leases(), now());
        let ran = loaded.run(self.program, &self.packet, &self.context);
        let (after, end) = (loaded.leases(), now());
        let left = loaded.unanswered();
        loaded.set_unanswered(&[]);
        let counters = loaded.counters();
        let seen = loaded.seen(self.tag);
        loaded.remove(&Entry::Seen(self.tag, seen));
        let phase = loaded.link(self.program).phase;
        for entry in &others {
            loaded.remove(entry);
        }
        loaded.set_leases(&[]);
        let (Some(ran), Some(tag)) = (ran, tag) else {
            return Err("the kernel takes no such frame".to_string());
        };
        let mut wrong = self.judge(&ran, &counters);
        if tag != u32::from(self.tag) {
            let _ = writeln!(wrong, "tc_index {tag:#06x}, expected {:#06x}", self.tag);
        }
        if let Some(notes) = self.notes
            && seen != notes
        {
            let _ = writeln!(wrong, "noted {seen:?}, expected {notes:?}");
        }
        if phase != self.phase {
            let _ = writeln!(wrong, "the link's phase is {phase}, expected {}", self.phase);
        }
        wrong += &leases::judge(&self.leases, before, after, start..=end);
        wrong += &places::judge(&self.leaves, &places, &left, &(start..=end));
        wrong += &judge_last_seen(&counters, start..=end);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn judge(&self, ran: &Ran, counters: &Counters) -> String {
        let mut wrong = String::new();
        if ran.action != self.action {
            let _ = writeln!(wrong, "action {:?}, expected {:?}", ran.action, self.action);
        }
        if ran.packet != self.out {
            let _ = writeln!(wrong, "{}", hex::difference(&self.out, &ran.packet));
        }
        if ran.metadata != self.metadata {
            let _ =
                writeln!(wrong, "metadata {:02x?}, expected {:02x?}", ran.metadata, self.metadata);
        }
        if ran.mark != self.mark {
            let _ = writeln!(wrong, "mark {:#x}, expected {:#x}", ran.mark, self.mark);
        }
        wrong + &difference(counters, &self.counts, &self.nodes)
    }
}

/// Runs a table in a namespace of its own.
///
/// # Panics
/// With a report of all rows that fail.
pub fn run(table: &str, cases: &[Case]) {
    let failures = in_namespace(|_| {
        let mut loaded = BTreeMap::new();
        let mut failures = Vec::new();
        for case in cases {
            println!("{table}: {}", case.what);
            let loaded = loaded
                .entry((
                    (case.fastpath, case.spoof, case.tunnel_header, case.is_tried),
                    (case.services, case.unanswered),
                ))
                .or_insert_with(|| Loaded::new(case.settings()));
            if let Err(wrong) = case.run(loaded) {
                failures.push(format!("{} ({}):\n{wrong}", case.what, case.program));
            }
        }
        failures
    });
    announce(table, cases.len());
    assert!(
        failures.is_empty(),
        "{table}: {} of {} cases fail\n\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn total_length(ip: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([ip[2], ip[3]]))
}

/// Says how many rows a table has, past libtest's capture: `cargo xtask test`
/// adds them up.
pub fn announce(table: &str, rows: usize) {
    use std::io::Write as _;

    // One write: other tests print at the same time. A closed pipe is no failure.
    let line = format!("table {table}: {rows} rows\n");
    let _ = std::io::stdout().write_all(line.as_bytes());
}
