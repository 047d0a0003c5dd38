//! Would the packets of a flow have skipped the stack?

use dataplane_common::Flow;
use nix::libc::IPPROTO_UDP;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    kernel::conntrack::Tracked,
    netfilter::rules::{ASSURED, CHANGED_BY_CONNTRACK, SERVICE},
};

/// `IPS_SEEN_REPLY` (`enum ip_conntrack_status`): what `ct state established` asks.
const ANSWERED: u32 = 1 << 1;

/// What would have become of a flow's packets, or keeps them from the fast path.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// They would have skipped the stack.
    Leased,
    /// Likewise, by a Service's lease.
    ServiceLeased,
    /// Conntrack has seen no answer.
    Unanswered,
    /// Conntrack changes more of them than a destination.
    Translated,
    /// The file excludes one of the addresses, or limits of Felix have to see each packet of the pod.
    Excluded,
    /// Conntrack knows no such flow (any more).
    Untracked,
    /// TCP SYN, FIN or RST: the stack has to see them.
    ConnectionControl,
    /// Neither TCP nor UDP, a fragment, or with IP options.
    NoFlow,
}

impl Fate {
    /// Whether the packets would have skipped the stack.
    #[must_use]
    pub const fn is_fast(self) -> bool {
        matches!(self, Self::Leased | Self::ServiceLeased)
    }

    /// Returns why not, or how, for people.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Leased => "by a lease",
            Self::ServiceLeased => "by a Service's lease",
            Self::Unanswered => "no answer yet, so conntrack does not call the flow established",
            Self::Translated => "translated by conntrack in more than the destination",
            Self::Excluded => "leases.exclude, or limits of Felix on the pod",
            Self::Untracked => "conntrack knows no such flow, or none any more",
            Self::ConnectionControl => "TCP SYN, FIN or RST",
            Self::NoFlow => "neither TCP nor UDP, a fragment, or IP options",
        }
    }
}

/// Decides by what conntrack says of the flow. `services`: flows that it translates for a Service may
/// be leased.
#[must_use]
pub fn fate(flow: &Flow, tracked: Option<Tracked>, is_excluded: bool, services: bool) -> Fate {
    let Some(Tracked(status)) = tracked else { return Fate::Untracked };
    if is_excluded {
        return Fate::Excluded;
    }
    if status & ANSWERED == 0 {
        return Fate::Unanswered;
    }
    if status & CHANGED_BY_CONNTRACK == 0 {
        return Fate::Leased;
    }
    let is_service = services && status & SERVICE.0 == SERVICE.1;
    let is_udp = i32::from(flow.protocol) == IPPROTO_UDP;
    match is_service {
        true if is_udp && status & ASSURED == 0 => Fate::Unanswered,
        true => Fate::ServiceLeased,
        false => Fate::Translated,
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Direction, Ipv4Be};

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn flow(protocol: u8) -> Flow {
        Flow::new(Ipv4Be(1), Ipv4Be(2), 3, protocol, Direction::Encap)
    }

    #[test]
    fn fates_are_those_of_the_nft_table() {
        let confirmed = 1 << 3;
        let seen = confirmed | ANSWERED;
        let (source, destination, helper, clash) = (0x10, 0x20, 0x2000, 0x1000);
        for (protocol, status, services, expected) in [
            (TCP, seen, true, Fate::Leased),
            (UDP, seen, true, Fate::Leased),
            (UDP, confirmed, true, Fate::Unanswered),
            (TCP, seen | destination, true, Fate::ServiceLeased),
            (TCP, seen | destination, false, Fate::Translated),
            (UDP, seen | destination, true, Fate::Unanswered),
            (UDP, seen | ASSURED | destination, true, Fate::ServiceLeased),
            (TCP, seen | destination | source, true, Fate::Translated),
            (TCP, seen | destination | clash, true, Fate::Translated),
            (TCP, seen | helper, true, Fate::Translated),
        ] {
            let found = fate(&flow(protocol), Some(Tracked(status)), false, services);
            assert_eq!(found, expected, "{protocol} {status:#x} {services}");
        }
        assert_eq!(fate(&flow(TCP), None, false, true), Fate::Untracked);
        assert_eq!(fate(&flow(TCP), Some(Tracked(seen)), true, true), Fate::Excluded);
    }
}
