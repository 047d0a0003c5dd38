//! What the programs ought to do, said a second time.
//!
//! Written from `design.md`, RFC 2003 and RFC 6040 over plain byte slices,
//! slow and simple; it shares no header code with the programs, only the
//! names of the reasons, the map entries of [`crate::world`] and the arithmetic
//! of [`Flow::tag`].

mod decap;
mod encap;
mod grant;
mod ip;
mod leases;

use std::{collections::BTreeMap, net::Ipv4Addr};

use dataplane_common::{
    Arrival, Direction, Endpoint, Epochs, Flow, Lease, Node, Reason, Route, Settings,
};

use crate::{
    packet::ETHERNET,
    prog::{Action, Context, Program, Ran},
    world::{EPOCHS, Entry, SECRET},
};

/// What must come of a packet.
pub struct Prediction {
    /// Action, packet, metadata and mark.
    pub ran: Ran,
    /// `skb->tc_index`.
    pub tag: u16,
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
    /// What ends them.
    epochs: Epochs,
    /// With what packets came, by their tag.
    seen: BTreeMap<u16, Arrival>,
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
            epochs: EPOCHS,
            seen: BTreeMap::new(),
        };
        for entry in entries {
            match *entry {
                Entry::Route(prefix, length, route) => {
                    model.routes.push((prefix.to_bits(), length, route));
                }
                Entry::Node(address, node) => model.nodes.push((address, node)),
                Entry::Endpoint(address, endpoint) => model.endpoints.push((address, endpoint)),
                // The model knows no time.
                Entry::Kept(_) | Entry::TryEnds(_) => {}
                Entry::RaisedRemote(_) | Entry::RaisedLocal(_) => entry.raise(&mut model.epochs),
                Entry::Seen(tag, arrival) => drop(model.seen.insert(tag, arrival)),
                Entry::Lease(flow, lease) => model.leases.push((flow, lease)),
            }
        }
        model.routes.sort_by_key(|(_, length, _)| std::cmp::Reverse(*length));
        model
    }

    /// Notes with what a packet came that bears this tag.
    pub fn set_seen(&mut self, tag: u16, arrival: Arrival) {
        self.seen.insert(tag, arrival);
    }

    /// The settings it was made with.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
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
            tag: context.tag,
            flow: None,
            count: None,
            node: None,
        };
        let verdict = match program {
            Program::EncapPod => self.encap(true, frame, context, &mut prediction),
            Program::EncapHost => {
                if self.settings.fastpath == Settings::VERIFIED {
                    prediction.ran.mark =
                        context.mark & !(self.settings.mark | self.settings.service_mark);
                }
                self.encap(false, frame, context, &mut prediction)
            }
            Program::DecapTc => self.decap(false, frame, &mut prediction),
            Program::DecapXdp => self.decap(true, frame, &mut prediction),
            Program::GrantDecap => Err(No::Pass(self.grant(frame, context, &mut prediction))),
            Program::ShadowIn | Program::ShadowOut => {
                panic!("{program} counts findings, not reasons")
            }
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
}
