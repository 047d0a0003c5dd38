//! What the counters tell of leases. The programs count packets by reason; some reasons are a grant,
//! a renewal or an end.

use dataplane_common::{Direction, Reason};

use super::{Metric, Samples};

/// What happened to a lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// Granted, or renewed.
    Granted(Direction, Granted),
    /// Found expired.
    Expired(Direction),
    /// Ended, or found ended.
    Revoked(Direction, Cause),
}

/// For what a lease is granted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Granted {
    /// A flow as it is.
    Flow,
    /// A flow that is translated for a Service.
    Service,
    /// A UDP flow that gets no answer.
    Unanswered,
}

/// Why a lease ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// TCP SYN, FIN or RST.
    ConnectionControl,
    /// A route, node or pod has changed.
    Outdated,
}

/// Which reasons tell what.
const REASONS: [(Reason, Change); 12] = {
    use Direction::{Decap, Encap};
    [
        (Reason::HostLeaseGranted, Change::Granted(Encap, Granted::Flow)),
        (Reason::HostServiceLeaseGranted, Change::Granted(Encap, Granted::Service)),
        (Reason::HostUnansweredLeaseGranted, Change::Granted(Encap, Granted::Unanswered)),
        (Reason::GrantGiven, Change::Granted(Decap, Granted::Flow)),
        (Reason::GrantServiceGiven, Change::Granted(Decap, Granted::Service)),
        (Reason::GrantUnansweredGiven, Change::Granted(Decap, Granted::Unanswered)),
        (Reason::PodLeaseExpired, Change::Expired(Encap)),
        (Reason::DecapLeaseExpiredToStack, Change::Expired(Decap)),
        (Reason::HostConnectionControl, Change::Revoked(Encap, Cause::ConnectionControl)),
        (Reason::GrantConnectionControl, Change::Revoked(Decap, Cause::ConnectionControl)),
        (Reason::PodLeaseOutdated, Change::Revoked(Encap, Cause::Outdated)),
        (Reason::DecapLeaseOutdatedToStack, Change::Revoked(Decap, Cause::Outdated)),
    ]
};

impl Change {
    /// All of them.
    pub const ALL: [Self; REASONS.len()] = {
        let mut all = [REASONS[0].1; REASONS.len()];
        let mut index = 0;
        while index < REASONS.len() {
            all[index] = REASONS[index].1;
            index += 1;
        }
        all
    };

    /// What a packet with this reason tells of leases, if anything.
    #[must_use]
    pub fn counted_as(reason: Reason) -> Option<Self> {
        REASONS.iter().find(|(known, _)| *known == reason).map(|(_, change)| *change)
    }

    /// Adds its figure.
    pub fn add(self, samples: &mut Samples, packets: u64) {
        match self {
            Self::Granted(direction, kind) => {
                let kind = match kind {
                    Granted::Flow => "flow",
                    Granted::Service => "service",
                    Granted::Unanswered => "unanswered",
                };
                let labels = [direction.as_str().into(), kind.into()];
                samples.add(Metric::LeaseGrants, labels, packets);
            }
            Self::Expired(direction) => {
                samples.add(Metric::LeaseRenewals, [direction.as_str().into()], packets);
            }
            Self::Revoked(direction, cause) => {
                let cause = match cause {
                    Cause::ConnectionControl => "connection_control",
                    Cause::Outdated => "outdated",
                };
                let labels = [direction.as_str().into(), cause.into()];
                samples.add(Metric::LeaseRevocations, labels, packets);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason that is added to the table of reasons and tells of leases must be added here.
    #[test]
    fn every_reason_that_tells_of_leases_is_known() {
        for reason in Reason::ALL {
            let name = reason.as_str();
            let tells = [
                "lease_granted",
                "grant_given",
                "service_given",
                "unanswered_given",
                "lease_expired",
            ]
            .into_iter()
            .chain(["lease_outdated", "host_connection_control", "grant_connection_control"])
            .any(|part| name.contains(part));
            assert_eq!(Change::counted_as(*reason).is_some(), tells, "{name}");
            if let Some(
                Change::Granted(direction, _)
                | Change::Expired(direction)
                | Change::Revoked(direction, _),
            ) = Change::counted_as(*reason)
            {
                assert_eq!(direction, reason.direction(), "{name}");
            }
        }
    }
}
