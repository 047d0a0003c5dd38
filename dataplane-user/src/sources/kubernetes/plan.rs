//! What is read of the API, and how closely.
//!
//! Whose a block is, blocks say where all of them are watched, and block affinities elsewhere: what
//! is polled is too old for that. A cluster that grows or shrinks changes over in two steps, so that
//! one of both is followed at any time: first what is to count is listed, then what counted is left.

use super::{
    access::{Kind, Resource},
    discovery::Found,
};
use crate::{
    config::sources::{Borrowed, Nodes},
    sources::reads::{Owners, Pace, Reads, Size},
};

/// A part of the API that is read by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// All nodes.
    Nodes,
    /// This node.
    OwnNode,
    /// Block affinities.
    Affinities,
    /// Blocks.
    Blocks,
    /// Pools.
    Pools,
}

impl Topic {
    /// All there are.
    pub const ALL: [Self; 5] =
        [Self::Nodes, Self::OwnNode, Self::Affinities, Self::Blocks, Self::Pools];

    /// What its objects are.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Nodes | Self::OwnNode => Kind::Node,
            Self::Affinities => Kind::Affinity,
            Self::Blocks => Kind::Block,
            Self::Pools => Kind::Pool,
        }
    }

    /// The resource, if this API has it.
    pub fn resource(self, found: Found) -> Option<Resource> {
        found.resources().into_iter().find(|resource| resource.kind == self.kind())
    }
}

/// What the file wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// How changes of nodes are learnt.
    pub nodes: Nodes,
    /// How borrowed addresses are learnt.
    pub borrowed: Borrowed,
}

impl Wanted {
    /// Whether the size of the cluster decides anything.
    pub fn is_auto(self) -> bool {
        self.nodes == Nodes::Auto || self.borrowed == Borrowed::Auto
    }
}

/// What is read now, and how. What is not, is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// All nodes.
    nodes: Pace,
    /// This node, by itself.
    own_node: bool,
    /// Affinities are always followed, or not read.
    affinities: bool,
    blocks: Option<Pace>,
    pools: bool,
    /// Which objects are to say whose a block is.
    pub owners: Option<Owners>,
}

impl Plan {
    /// Decides it. `size`: of the cluster, once its nodes are listed. `owners`: who says whose a
    /// block is now; `None`: not all is listed yet.
    pub fn new(found: Found, wanted: Wanted, size: Option<Size>, owners: Option<Owners>) -> Self {
        if found == Found::HostLocal {
            let nodes = Pace::Followed;
            let (own_node, affinities, pools) = (false, false, false);
            return Self { nodes, own_node, affinities, blocks: None, pools, owners: None };
        }
        let nodes = match (wanted.nodes, size) {
            (Nodes::Followed, _) => Pace::Followed,
            // They are listed, to begin with.
            (Nodes::Polled, _) | (Nodes::Auto, None) => Pace::Polled,
            (Nodes::Auto, Some(size)) => size.pace(),
        };
        let borrowed = match (wanted.borrowed, size) {
            (Borrowed::Off, _) => Some(None),
            (Borrowed::Followed, _) => Some(Some(Pace::Followed)),
            (Borrowed::Polled, _) => Some(Some(Pace::Polled)),
            (Borrowed::Auto, size) => size.map(|size| Some(size.pace())),
        };
        let (affinities, blocks) = match (borrowed, owners) {
            (None, _) => (false, None),
            (Some(Some(Pace::Followed)), owners) => {
                (owners == Some(Owners::Affinities), Some(Pace::Followed))
            }
            // Until the affinities are listed.
            (Some(Some(Pace::Polled)), Some(Owners::Blocks)) => (true, Some(Pace::Followed)),
            (Some(blocks), _) => (true, blocks),
        };
        let owners = borrowed.map(|borrowed| match borrowed {
            Some(Pace::Followed) => Owners::Blocks,
            Some(Pace::Polled) | None => Owners::Affinities,
        });
        let is_settled = wanted.nodes == Nodes::Polled || size.is_some();
        let own_node = nodes == Pace::Polled && is_settled;
        Self { nodes, own_node, affinities, blocks, pools: true, owners }
    }

    /// How a topic is read now; `None`: not at all.
    pub fn pace(self, topic: Topic) -> Option<Pace> {
        let followed = |is_wanted: bool| is_wanted.then_some(Pace::Followed);
        match topic {
            Topic::Nodes => Some(self.nodes),
            Topic::OwnNode => followed(self.own_node),
            Topic::Affinities => followed(self.affinities),
            Topic::Blocks => self.blocks,
            Topic::Pools => followed(self.pools),
        }
    }

    /// The topics that are read now.
    pub fn topics(self) -> impl Iterator<Item = Topic> {
        Topic::ALL.into_iter().filter(move |topic| self.pace(*topic).is_some())
    }

    /// What of it counts. `owners`: who says whose a block is now.
    pub fn reads(self, owners: Option<Owners>) -> Reads {
        let borrowed = match owners {
            Some(Owners::Affinities) => self.blocks.map(|_| Pace::Polled),
            // Without blocks (`host-local`) no address is borrowed.
            Some(Owners::Blocks) | None => Some(Pace::Followed),
        };
        Reads { nodes: self.nodes, borrowed }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::access::CALICO_V1, *};

    const CALICO: Found = Found::Calico(CALICO_V1);
    const AUTO: Wanted = Wanted { nodes: Nodes::Auto, borrowed: Borrowed::Auto };

    /// `nodes own affinities blocks pools`: `f`ollowed, `p`olled, `-`.
    fn text(plan: Plan) -> String {
        let letter = |topic| match plan.pace(topic) {
            None => '-',
            Some(Pace::Followed) => 'f',
            Some(Pace::Polled) => 'p',
        };
        Topic::ALL.map(letter).iter().collect()
    }

    #[test]
    fn what_is_read_by_file_and_size() {
        use Owners::{Affinities, Blocks};
        use Size::{Large, Small};
        let wanted = |nodes, borrowed| Wanted { nodes, borrowed };
        let followed = wanted(Nodes::Followed, Borrowed::Followed);
        let polled = wanted(Nodes::Polled, Borrowed::Polled);
        let off = wanted(Nodes::Polled, Borrowed::Off);
        let mixed = wanted(Nodes::Followed, Borrowed::Polled);
        for (wanted, size, owners, expected) in [
            // Nodes are listed first; then the size is known.
            (AUTO, None, None, "p---f"),
            (AUTO, Some(Small), None, "f--ff"),
            (AUTO, Some(Large), None, "pffpf"),
            // It grows: blocks are followed until affinities count.
            (AUTO, Some(Large), Some(Blocks), "pffff"),
            (AUTO, Some(Large), Some(Affinities), "pffpf"),
            // And shrinks: affinities are followed until blocks count.
            (AUTO, Some(Small), Some(Affinities), "f-fff"),
            (AUTO, Some(Small), Some(Blocks), "f--ff"),
            // The file says it, whatever the size is.
            (followed, None, None, "f--ff"),
            (followed, Some(Large), Some(Blocks), "f--ff"),
            (polled, None, None, "pffpf"),
            (polled, Some(Small), Some(Affinities), "pffpf"),
            (off, None, None, "pff-f"),
            (mixed, None, None, "f-fpf"),
        ] {
            let plan = Plan::new(CALICO, wanted, size, owners);
            assert_eq!(text(plan), expected, "{wanted:?} {size:?} {owners:?}");
        }
    }

    /// Nothing but a Node says that there is a new pod CIDR.
    #[test]
    fn pod_cidrs_are_always_followed() {
        for nodes in [Nodes::Auto, Nodes::Polled] {
            let wanted = Wanted { nodes, borrowed: Borrowed::Polled };
            let plan = Plan::new(Found::HostLocal, wanted, Some(Size::Large), None);
            assert_eq!((text(plan).as_str(), plan.reads(None)), ("f----", Reads::FOLLOWED));
        }
    }

    #[test]
    fn what_is_reported_is_what_counts() {
        let reads = |size, owners| {
            let plan = Plan::new(CALICO, AUTO, Some(size), Some(owners));
            plan.reads(Some(owners)).to_string()
        };
        use Owners::{Affinities, Blocks};
        assert_eq!(reads(Size::Small, Blocks), "nodes and borrowed addresses followed");
        assert_eq!(reads(Size::Large, Affinities), "nodes and borrowed addresses polled");
        // On the way.
        assert_eq!(reads(Size::Large, Blocks), "nodes polled, borrowed addresses followed");
        assert_eq!(reads(Size::Small, Affinities), "nodes followed, borrowed addresses polled");
    }
}
