//! How closely a datastore is followed, and from how many nodes on it is polled.
//!
//! Every node runs a daemon. What all of them together cost the datastore grows with the square of
//! the number of nodes: `docs/scale.md` has the figures that the limits come from.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// From more nodes than this on a cluster is large.
pub const MANY: usize = 300;
/// From fewer nodes than this on it is small again.
pub const FEW: usize = 240;

/// Between two lists of what is polled, at least; at most a quarter more.
const POLL: Duration = Duration::from_secs(3600);

/// Returns how long what is polled is not asked for.
#[must_use]
pub fn until_next_poll() -> Duration {
    POLL + (POLL / 4).mul_f64(fastrand::f64())
}

/// Which objects say whose a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// The blocks themselves.
    Blocks,
    /// Block affinities.
    Affinities,
}

/// How a part of a datastore is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Watched: each change is heard of.
    Followed,
    /// Listed about once an hour.
    Polled,
}

impl Pace {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::Polled => "polled",
        }
    }
}

/// How large a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// Its datastore can be followed by every node.
    Small,
    /// It is polled.
    Large,
}

impl Size {
    /// Decides it by the number of nodes, and by what was decided before: a cluster whose number
    /// of nodes moves around the limit does not change over each time.
    #[must_use]
    pub fn of(nodes: usize, before: Option<Self>) -> Self {
        let limit = if before == Some(Self::Large) { FEW - 1 } else { MANY };
        if nodes > limit { Self::Large } else { Self::Small }
    }

    /// How a cluster of this size is read where the file says `auto`.
    #[must_use]
    pub const fn pace(self) -> Pace {
        match self {
            Self::Small => Pace::Followed,
            Self::Large => Pace::Polled,
        }
    }
}

/// How closely a datastore is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Reads {
    /// The nodes.
    pub nodes: Pace,
    /// Borrowed addresses; `null`: they are not read.
    pub borrowed: Option<Pace>,
}

impl Reads {
    /// Everything is followed.
    pub const FOLLOWED: Self = Self { nodes: Pace::Followed, borrowed: Some(Pace::Followed) };
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.as_str();
        match self.borrowed {
            Some(pace) if pace == self.nodes => write!(f, "nodes and borrowed addresses {nodes}"),
            Some(pace) => write!(f, "nodes {nodes}, borrowed addresses {}", pace.as_str()),
            None => write!(f, "nodes {nodes}, borrowed addresses off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_near_the_limit_stays_what_it_was() {
        use Size::{Large, Small};
        for (nodes, before, expected) in [
            (0, None, Small),
            (MANY, None, Small),
            (MANY + 1, None, Large),
            (MANY, Some(Small), Small),
            (MANY + 1, Some(Small), Large),
            (MANY, Some(Large), Large),
            (FEW, Some(Large), Large),
            (FEW - 1, Some(Large), Small),
            (5_000, Some(Small), Large),
        ] {
            assert_eq!(Size::of(nodes, before), expected, "{nodes} {before:?}");
        }
        const { assert!(FEW < MANY) };
    }

    #[test]
    fn the_fleet_does_not_poll_at_the_same_moment() {
        let mut pauses: Vec<Duration> = (0..200).map(|_| until_next_poll()).collect();
        pauses.sort_unstable();
        assert!(pauses[0] >= POLL && pauses[199] <= POLL + POLL / 4);
        assert!(pauses[199] - pauses[0] > POLL / 8);
    }

    #[test]
    fn it_is_one_line_for_people() {
        let reads = |nodes, borrowed| Reads { nodes, borrowed }.to_string();
        use Pace::{Followed, Polled};
        assert_eq!(Reads::FOLLOWED.to_string(), "nodes and borrowed addresses followed");
        assert_eq!(reads(Polled, Some(Followed)), "nodes polled, borrowed addresses followed");
        assert_eq!(reads(Followed, None), "nodes followed, borrowed addresses off");
    }
}
