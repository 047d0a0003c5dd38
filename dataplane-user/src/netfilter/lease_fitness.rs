//! What stands against some kind of leases on a host.

use std::{collections::BTreeSet, fmt};

use anyhow::Result;

/// What may stand against a kind of leases.
pub trait Standing: Clone + Ord + fmt::Debug {
    /// nft refuses the rules for them, and why.
    fn refused(why: String) -> Self;

    /// Returns whether it is that.
    fn is_refused(&self) -> bool;

    /// Returns whether rules of others use a bit of the packet mark that is ours for them.
    fn is_mark(&self) -> bool;
}

/// What is known of a host for a kind of leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseFitness<O: Ord> {
    /// What stands against them.
    pub against: BTreeSet<O>,
}

impl<O: Ord> Default for LeaseFitness<O> {
    fn default() -> Self {
        Self { against: BTreeSet::new() }
    }
}

impl<O: Standing> LeaseFitness<O> {
    /// Returns whether a bit of the packet mark is another program's, which ours have to leave alone.
    #[must_use]
    pub fn is_mark_taken(&self) -> bool {
        self.against.iter().any(Standing::is_mark)
    }

    /// Adds that nft refuses the rules for them, if it does.
    #[must_use]
    pub fn with_table(mut self, checked: Result<()>) -> Self {
        self.against.extend(checked.err().map(|error| O::refused(format!("{error:#}"))));
        self
    }

    /// Adds what `before` has of [`Self::with_table`]. To ask nft costs: the kernel registers the rules' hook
    /// and takes it back, and with any hook that goes it drops all packets that wait in an NFQUEUE
    /// (`nf_queue_nf_hook_drop`).
    #[must_use]
    pub fn with_table_of(mut self, before: &Self) -> Self {
        let refused = before.against.iter().filter(|obstacle| obstacle.is_refused());
        self.against.extend(refused.cloned());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum Obstacle {
        Mark,
        Refused(String),
    }

    impl Standing for Obstacle {
        fn refused(why: String) -> Self {
            Self::Refused(why)
        }

        fn is_refused(&self) -> bool {
            matches!(self, Self::Refused(_))
        }

        fn is_mark(&self) -> bool {
            *self == Self::Mark
        }
    }

    #[test]
    fn a_refusal_is_kept_and_nothing_else() {
        let none = LeaseFitness::<Obstacle>::default();
        assert_eq!(none.clone().with_table(Ok(())), none);
        let refused = none.clone().with_table(Err(anyhow::anyhow!("no such key")));
        assert_eq!(refused.against, [Obstacle::Refused("no such key".into())].into());
        assert_eq!(none.clone().with_table_of(&refused), refused);
        let marked = LeaseFitness { against: [Obstacle::Mark].into() };
        assert!(marked.is_mark_taken() && !refused.is_mark_taken());
        assert_eq!(none.clone().with_table_of(&marked), none);
    }
}
