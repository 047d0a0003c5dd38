//! What the daemon has noticed of the other nodes, for the command line: `nodes list`, `top`, `doctor`.
//! It is an extra; the maps have the rest.

use std::net::Ipv4Addr;

use dataplane_common::NodeCounter;

use super::{
    report::{SILENCE, State, names},
    silence::{SilentNodes, sent_since_heard},
    underlay_errors::LatestErrors,
};
use crate::{bpf::Pins, clock, sources::names::NodeNames};

/// See the [module](self).
#[derive(Clone, Default, Debug)]
pub struct Heard {
    /// What nodes are called.
    pub names: NodeNames,
    /// Errors of the underlay about packets to them.
    pub errors: LatestErrors,
    silent: SilentNodes,
    is_fresh: bool,
}

impl Heard {
    /// Reads what the daemon with these pins has left; nothing where it has left nothing.
    #[must_use]
    pub fn read(pins: &Pins) -> Self {
        Self::of(State::read(pins).ok().flatten().as_ref(), names::read(pins))
    }

    /// What this report has, with these names.
    #[must_use]
    pub fn of(state: Option<&State>, names: NodeNames) -> Self {
        let Some(state) = state else { return Self { names, ..Self::default() } };
        let age = clock::monotonic().as_secs_f64() - state.heartbeat;
        Self {
            names,
            errors: state.underlay_errors.clone(),
            silent: state.silent.clone(),
            is_fresh: age < SILENCE.as_secs_f64(),
        }
    }

    /// How many packets were sent to a node since one last came from it, by what is counted for it now;
    /// `None`: that is not known. See [`silence`](super::silence).
    #[must_use]
    pub fn sent_since(&self, node: Ipv4Addr, counted: &NodeCounter) -> Option<u64> {
        sent_since_heard(counted, self.silent.get(&node), self.is_fresh)
    }
}
