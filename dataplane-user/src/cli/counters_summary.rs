//! `tunless counters summary`: what became of packets, from where they came to where they went.
//!
//! A table of sums over reasons, with what the kernel kept in between, so that nothing has to be subtracted by
//! hand. A packet is counted once by each program that it meets, and the kernel lies between two of them.

use anyhow::Result;
use dataplane_common::{Counter, Reason};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Maps,
    exit::Exit,
    output::{self, Format, Row},
};

/// What became of a packet at one program. Each reason is one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    PodFast,
    PodToStack,
    PodForged,
    PodElsewhere,
    PodDropped,
    TunnelSent,
    TunnelLeft,
    TunnelDropped,
    WireOther,
    WireLeft,
    WireDropped,
    WireToPod,
    WireToStack,
    IntoPod,
    /// Of `decap_xdp`: `decap_tc` counts the same packet.
    CountedLater,
}

/// The stage of a reason: a new reason does not compile without one.
const fn stage(reason: Reason) -> Stage {
    use Reason as R;
    match reason {
        R::PodEncapsulated | R::PodServiceEncapsulated => Stage::PodFast,
        R::PodForgedSource => Stage::PodForged,
        R::PodNotIpv4 | R::PodNotForHost | R::PodNoRoute | R::PodDirect => Stage::PodElsewhere,
        R::PodTryOver
        | R::PodTruncated
        | R::PodBadHeader
        | R::PodNodeUnreachable
        | R::PodTtlExpired
        | R::PodTooBig
        | R::PodOptions
        | R::PodFragment
        | R::PodBadChecksum
        | R::PodConnectionControl
        | R::PodNoPorts
        | R::PodNoLease
        | R::PodLeaseExpired
        | R::PodLeaseOutdated
        | R::PodAlreadyEncapsulated
        | R::PodCannotEncapsulate => Stage::PodToStack,
        R::PodCannotTranslate => Stage::PodDropped,
        R::HostEncapsulated
        | R::HostLeaseGranted
        | R::HostServiceLeaseGranted
        | R::HostUnansweredLeaseGranted
        | R::HostLeased
        | R::HostUnmarked
        | R::HostUnanswered
        | R::HostUnproven
        | R::HostConnectionControl => Stage::TunnelSent,
        R::HostTruncated
        | R::HostNotIpv4
        | R::HostBadHeader
        | R::HostNoRoute
        | R::HostNodeUnreachable
        | R::HostTtlExpired
        | R::HostTooBig
        | R::HostAlreadyEncapsulated
        | R::HostCannotEncapsulate => Stage::TunnelDropped,
        R::Tunl0TryOver
        | R::Tunl0Truncated
        | R::Tunl0NotIpv4
        | R::Tunl0BadHeader
        | R::Tunl0NoRoute
        | R::Tunl0NodeUnreachable
        | R::Tunl0TtlExpired
        | R::Tunl0TooBig
        | R::Tunl0AlreadyEncapsulated
        | R::Tunl0CannotEncapsulate => Stage::TunnelLeft,
        R::XdpUnwrapped | R::XdpMarked | R::XdpUnable => Stage::CountedLater,
        R::DecapOuterTruncated | R::DecapNotIpv4 | R::DecapNotIpip | R::DecapNotForHost => {
            Stage::WireOther
        }
        R::DecapTryOver
        | R::DecapOuterBadHeader
        | R::DecapOuterOptions
        | R::DecapOuterBadChecksum
        | R::DecapOuterFragment
        | R::DecapOuterBadLength
        | R::DecapOtherDestination
        | R::DecapUnknownNode
        | R::DecapInnerTruncated
        | R::DecapInnerBadHeader
        | R::DecapInnerBadLength
        | R::DecapInnerBadChecksum
        | R::DecapNestedTunnel
        | R::DecapSourceUnknown
        | R::DecapGsoToTunl0
        | R::DecapCannotUnwrap => Stage::WireLeft,
        R::DecapMartianSource
        | R::DecapOwnSource
        | R::DecapForgedSource
        | R::DecapEcnViolation
        | R::DecapInnerTtlZero
        | R::DecapNodeOptions
        | R::DecapNodeToMany
        | R::DecapNodeShortFragment
        | R::DecapNodeTwice
        | R::DecapHandoverStray
        | R::DecapHandoverLost => Stage::WireDropped,
        R::DecapMartianToStack
        | R::DecapOwnToStack
        | R::DecapForgedToStack
        | R::DecapToStack
        | R::DecapNoPortsToStack
        | R::DecapControlToStack
        | R::DecapNoLeaseToStack
        | R::DecapLeaseExpiredToStack
        | R::DecapLeaseOutdatedToStack
        | R::DecapOptionsToStack
        | R::DecapFragmentToStack
        | R::DecapTtlToStack
        | R::DecapGsoToStack
        | R::DecapNoEndpointToStack
        | R::DecapCannotTranslateToStack => Stage::WireToStack,
        R::DecapToPod | R::DecapServiceToPod => Stage::WireToPod,
        R::GrantTryOver
        | R::GrantNoFlow
        | R::GrantGiven
        | R::GrantServiceGiven
        | R::GrantUnansweredGiven
        | R::GrantLeased
        | R::GrantUnmarked
        | R::GrantUnanswered
        | R::GrantUnproven
        | R::GrantConnectionControl => Stage::IntoPod,
    }
}

/// A line of the table: where, what became of the packets, and how many that were.
struct Line {
    place: &'static str,
    outcome: &'static str,
    sum: Sum,
}

/// How a line's figure is made.
enum Sum {
    Of(Stage),
    /// Those that went in, less those that came out. The latter may hold others, too, so that it is the
    /// least that the kernel can have kept.
    Kept {
        put_in: &'static [Stage],
        came_out: &'static [Stage],
    },
}

/// All lines, in the order in which a packet meets them.
const LINES: &[Line] = {
    const fn line(place: &'static str, outcome: &'static str, stage: Stage) -> Line {
        Line { place, outcome, sum: Sum::Of(stage) }
    }
    const fn kept(
        place: &'static str,
        outcome: &'static str,
        put_in: &'static [Stage],
        came_out: &'static [Stage],
    ) -> Line {
        Line { place, outcome, sum: Sum::Kept { put_in, came_out } }
    }
    const POD: &str = "from pods";
    const TUNNEL: &str = "tunnel device";
    const WIRE: &str = "from the wire";
    &[
        line(POD, "encapsulated: the fast path", Stage::PodFast),
        line(POD, "passed to the stack", Stage::PodToStack),
        line(
            POD,
            "passed to the stack, for rp_filter: the source is not the pod's",
            Stage::PodForged,
        ),
        line(
            POD,
            "passed to the stack: not for a pod of another node, or for a Service",
            Stage::PodElsewhere,
        ),
        line(POD, "dropped", Stage::PodDropped),
        kept(
            "stack",
            "kept by the kernel (policies, rp_filter), at least",
            &[Stage::PodToStack, Stage::PodForged],
            &[Stage::TunnelSent, Stage::TunnelLeft, Stage::TunnelDropped],
        ),
        line(TUNNEL, "encapsulated; the host's own are among them", Stage::TunnelSent),
        line(TUNNEL, "passed to tunl0, which encapsulates", Stage::TunnelLeft),
        line(TUNNEL, "dropped", Stage::TunnelDropped),
        line(WIRE, "passed: not a tunnel packet", Stage::WireOther),
        line(WIRE, "passed to the kernel with the outer header", Stage::WireLeft),
        line(WIRE, "dropped", Stage::WireDropped),
        line(WIRE, "decapsulated, put into a pod: the fast path", Stage::WireToPod),
        line(WIRE, "decapsulated, passed to the stack", Stage::WireToStack),
        kept(
            "stack",
            "kept by the kernel (policies), or for the host itself, at least",
            &[Stage::WireToStack],
            &[Stage::IntoPod],
        ),
        line(
            "into pods",
            "from the stack; from pods of this node and the host, too",
            Stage::IntoPod,
        ),
    ]
};

/// A line with its figures; none where they cannot be known.
#[derive(PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub(super) struct SummaryItem {
    /// Where packets were counted.
    place: &'static str,
    /// What became of them, for people.
    outcome: &'static str,
    /// Packets since the counters were last flushed; `null` where no program counts them.
    packets: Option<u64>,
    /// As the program got them: from the wire with the outer header. `null` also where `packets` is a
    /// difference, because one of bytes would mean nothing.
    bytes: Option<u64>,
    /// Whether the figure is the least that it can be, because it is a difference.
    is_least: bool,
}

impl Row for SummaryItem {
    const COLUMNS: &'static [&'static str] = &["WHERE", "PACKETS", "BYTES", "WHAT BECAME OF THEM"];

    fn cells(&self) -> Vec<String> {
        let number =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
        vec![self.place.into(), number(self.packets), number(self.bytes), self.outcome.into()]
    }
}

/// Makes the lines of each reason's counter.
fn summarize(counters: &[(Reason, Counter)]) -> Vec<SummaryItem> {
    let sum = |stages: &[Stage]| {
        let among = counters.iter().filter(|(reason, _)| stages.contains(&stage(*reason)));
        among.fold(Counter::default(), |sum, (_, counter)| Counter {
            packets: sum.packets.saturating_add(counter.packets),
            bytes: sum.bytes.saturating_add(counter.bytes),
        })
    };
    let item = |Line { place, outcome, sum: how }: &Line| {
        let (figures, is_least) = match how {
            Sum::Of(stage) => {
                let Counter { packets, bytes } = sum(&[*stage]);
                (Some((packets, Some(bytes))), false)
            }
            Sum::Kept { put_in, came_out } => {
                let (put_in, came_out) = (sum(put_in), sum(came_out));
                // Where no program counts one of the two there is nothing to compare.
                let is_known = put_in.packets != 0 && came_out.packets != 0;
                let packets = put_in.packets.saturating_sub(came_out.packets);
                (is_known.then_some((packets, None)), true)
            }
        };
        SummaryItem {
            place,
            outcome,
            packets: figures.map(|(packets, _)| packets),
            bytes: figures.and_then(|(_, bytes)| bytes),
            is_least,
        }
    };
    LINES.iter().map(item).collect()
}

/// Prints every line.
pub fn summary(maps: &Maps, format: Format) -> Result<Exit> {
    let look = |reason: &Reason| Ok((*reason, maps.counter(*reason)?));
    let counters = Reason::ALL.iter().map(look).collect::<Result<Vec<_>>>()?;
    output::list(format, &summarize(&counters))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters with these packets, of 100 bytes each.
    fn counted(packets: &[(Reason, u64)]) -> Vec<SummaryItem> {
        let counter = |packets| Counter { packets, bytes: 100 * packets };
        let counters: Vec<_> =
            packets.iter().map(|(reason, packets)| (*reason, counter(*packets))).collect();
        summarize(&counters)
    }

    /// The lines with these words, of one place.
    fn packets(items: &[SummaryItem], place: &str, outcome: &str) -> Option<u64> {
        let is_it = |item: &&SummaryItem| item.place == place && item.outcome.contains(outcome);
        items.iter().find(is_it).expect("a line").packets
    }

    #[test]
    fn each_packet_that_a_tc_program_counted_is_in_one_line() {
        for reason in Reason::ALL {
            let items = counted(&[(*reason, 1)]);
            let sums: u64 =
                items.iter().filter(|item| !item.is_least).filter_map(|it| it.packets).sum();
            assert_eq!(sums, u64::from(stage(*reason) != Stage::CountedLater), "{reason}");
        }
    }

    #[test]
    fn what_the_kernel_kept_is_the_difference() {
        let items = counted(&[
            (Reason::PodNoLease, 8),
            (Reason::PodForgedSource, 2),
            (Reason::HostUnmarked, 6),
            (Reason::HostNoRoute, 1),
            (Reason::DecapNoLeaseToStack, 9),
            (Reason::GrantGiven, 4),
        ]);
        assert_eq!(packets(&items, "stack", "kept by the kernel (policies, rp_filter)"), Some(3));
        assert_eq!(packets(&items, "stack", "kept by the kernel (policies), or"), Some(5));
        assert_eq!(packets(&items, "from pods", "the source is not the pod's"), Some(2));
    }

    #[test]
    fn what_cannot_be_known_is_no_number() {
        // Without the fast path no program is on the pods' interfaces.
        let items = counted(&[(Reason::HostEncapsulated, 6), (Reason::DecapToStack, 9)]);
        for outcome in
            ["kept by the kernel (policies, rp_filter)", "kept by the kernel (policies), or"]
        {
            assert_eq!(packets(&items, "stack", outcome), None);
        }
        // The host's own packets come out of the stack as well.
        let items = counted(&[(Reason::PodNoLease, 2), (Reason::HostUnproven, 5)]);
        assert_eq!(packets(&items, "stack", "kept by the kernel (policies, rp_filter)"), Some(0));
    }
}
