//! Why a packet left a program the way it did.
//!
//! Every exit of every program names one [`Reason`], and each reason belongs
//! to one direction and one verdict, so a counter table answers "why did this
//! packet vanish" and "why did the kernel get it" alike. `docs/counters.md` is
//! made from this file.

use crate::Direction;

/// What became of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Wrapped or unwrapped, and sent on its way by us.
    Forwarded,
    /// Left to whoever comes next, in the end the kernel, as it is.
    Passed,
    /// Gone.
    Dropped,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
        }
    }
}

macro_rules! reasons {
    ($($variant:ident $name:literal $direction:ident $verdict:ident $caption:literal)*) => {
        /// Why a packet left a program the way it did.
        ///
        /// The number is the index into the `COUNTERS` map.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        #[expect(clippy::doc_markdown, reason = "the captions are for a terminal too")]
        pub enum Reason {
            $(#[doc = $caption] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order a packet meets them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// How many there are: the size of the `COUNTERS` map.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in tables, JSON and metrics; never changes its meaning.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn caption(self) -> &'static str {
                match self { $(Self::$variant => $caption,)* }
            }

            /// Which way the packet was going.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$variant => Direction::$direction,)* }
            }

            /// What became of the packet.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict,)* }
            }
        }
    };
}

reasons! {
    // encap_pod: from a pod's interface, fast path or pass.
    PodEncapsulated "pod_encapsulated" Encap Forwarded "wrapped at the pod's interface: the fast path"
    PodTruncated "pod_truncated" Encap Passed "shorter than its headers"
    PodNotIpv4 "pod_not_ipv4" Encap Passed "not IPv4: ARP, IPv6, VLAN"
    PodBadHeader "pod_bad_header" Encap Passed "IPv4 header whose version, header length or total length cannot be"
    PodForgedSource "pod_forged_source" Encap Passed "source is not the address of the pod on this interface, or the lease another pod's; rp_filter judges it"
    PodNoRoute "pod_no_route" Encap Passed "destination is no pod of another node"
    PodDirect "pod_direct" Encap Passed "destination's packets travel plain, as the kernel routes them"
    PodNodeUnreachable "pod_node_unreachable" Encap Passed "the destination's node has no route over an underlay interface"
    PodTtlExpired "pod_ttl_expired" Encap Passed "TTL would reach 0; the kernel sends Time Exceeded"
    PodTooBig "pod_too_big" Encap Passed "does not fit the node's MTU with the outer header; the kernel fragments or sends Fragmentation Needed"
    PodOptions "pod_options" Encap Passed "has IP options, which the kernel has to look at"
    PodFragment "pod_fragment" Encap Passed "is a fragment"
    PodBadChecksum "pod_bad_checksum" Encap Passed "header checksum is wrong; the kernel discards it (RFC 1812 §5.2.2)"
    PodConnectionControl "pod_connection_control" Encap Passed "TCP SYN, FIN or RST, which the stack should see"
    PodNoPorts "pod_no_ports" Encap Passed "neither TCP nor UDP: never leased"
    PodNoLease "pod_no_lease" Encap Passed "its flow has no lease: new, translated, denied, or to no remote pod"
    PodLeaseExpired "pod_lease_expired" Encap Passed "its flow's lease is over; netfilter is asked again"
    PodLeaseOutdated "pod_lease_outdated" Encap Passed "a route, node or pod changed since its flow got a lease; netfilter is asked again"
    PodAlreadyEncapsulated "pod_already_encapsulated" Encap Passed "already a tunnel packet with offloads pending (a pod running VXLAN)"
    PodCannotEncapsulate "pod_cannot_encapsulate" Encap Passed "the kernel gave no room for an outer header (SCTP GSO, memory)"
    // encap_host: out of the tunnel device. What cannot be wrapped must not leave.
    HostEncapsulated "host_encapsulated" Encap Forwarded "wrapped at the tunnel device: the stack path"
    HostLeaseGranted "host_lease_granted" Encap Forwarded "wrapped at the tunnel device; netfilter lets its flow pass, which is leased from here on"
    HostLeased "host_leased" Encap Forwarded "wrapped at the tunnel device; its flow has a lease, but this packet came by the stack"
    HostUnmarked "host_unmarked" Encap Forwarded "wrapped at the tunnel device; new, translated or excluded as netfilter sees it: no lease"
    HostUnproven "host_unproven" Encap Forwarded "wrapped at the tunnel device; not as a pod of ours sent it (translated unknown to conntrack, or the host's own): no lease"
    HostConnectionControl "host_connection_control" Encap Forwarded "wrapped at the tunnel device; TCP SYN, FIN or RST: leases of its flow end"
    HostTruncated "host_truncated" Encap Dropped "shorter than its headers"
    HostNotIpv4 "host_not_ipv4" Encap Dropped "not IPv4: ARP, IPv6, VLAN"
    HostBadHeader "host_bad_header" Encap Dropped "IPv4 header whose version, header length or total length cannot be"
    HostNoRoute "host_no_route" Encap Dropped "destination is no pod of another node"
    HostNodeUnreachable "host_node_unreachable" Encap Dropped "the destination's node has no route over an underlay interface"
    HostTtlExpired "host_ttl_expired" Encap Dropped "TTL 0 (RFC 2003 §3.1: must not be wrapped)"
    HostTooBig "host_too_big" Encap Dropped "does not fit the node's MTU with the outer header, though the route says how much does"
    HostAlreadyEncapsulated "host_already_encapsulated" Encap Dropped "already a tunnel packet with offloads pending (a pod running VXLAN)"
    HostCannotEncapsulate "host_cannot_encapsulate" Encap Dropped "the kernel gave no room for an outer header (SCTP GSO, memory)"
    // encap_host on tunl0: what we do not take, tunl0 encapsulates.
    Tunl0Truncated "tunl0_truncated" Encap Passed "left to tunl0: shorter than its headers"
    Tunl0NotIpv4 "tunl0_not_ipv4" Encap Passed "left to tunl0: not IPv4"
    Tunl0BadHeader "tunl0_bad_header" Encap Passed "left to tunl0: IPv4 header whose version, header length or total length cannot be"
    Tunl0NoRoute "tunl0_no_route" Encap Passed "left to tunl0: destination is no pod of another node, as far as we know"
    Tunl0NodeUnreachable "tunl0_node_unreachable" Encap Passed "left to tunl0: the destination's node has no route over an underlay interface"
    Tunl0TtlExpired "tunl0_ttl_expired" Encap Passed "left to tunl0: TTL 0"
    Tunl0TooBig "tunl0_too_big" Encap Passed "left to tunl0: does not fit the node's MTU with the outer header; it sends Fragmentation Needed"
    Tunl0AlreadyEncapsulated "tunl0_already_encapsulated" Encap Passed "left to tunl0: already a tunnel packet with offloads pending (a pod running VXLAN)"
    Tunl0CannotEncapsulate "tunl0_cannot_encapsulate" Encap Passed "left to tunl0: the kernel gave no room for an outer header (SCTP GSO, memory)"
    // decap_xdp: what decap_tc would count is left to it.
    XdpUnwrapped "xdp_unwrapped" Decap Passed "unwrapped by XDP and handed to decap_tc, which counts its delivery"
    XdpUnable "xdp_unable" Decap Passed "the driver has no room for XDP metadata; decap_tc unwraps instead"
    // Decapsulation, in the order of the checks.
    OuterTruncated "outer_truncated" Decap Passed "shorter than an Ethernet and an IPv4 header"
    NotIpv4 "not_ipv4" Decap Passed "not IPv4: ARP, IPv6, VLAN"
    NotIpip "not_ipip" Decap Passed "IPv4, but not protocol 4: the host's own traffic"
    NotForHost "not_for_host" Decap Passed "the frame is addressed to another machine, or to many"
    OuterBadHeader "outer_bad_header" Decap Passed "outer version or header length cannot be"
    OuterOptions "outer_options" Decap Passed "outer header has options; a tunnel writes none"
    OuterBadChecksum "outer_bad_checksum" Decap Passed "outer header checksum is wrong"
    OuterFragment "outer_fragment" Decap Passed "outer packet is a fragment (a peer with DF=0 over a smaller underlay); nobody reassembles it"
    OuterBadLength "outer_bad_length" Decap Passed "outer total length is more than the frame holds or less than a header"
    OtherDestination "other_destination" Decap Passed "outer destination is not our node address"
    UnknownNode "unknown_node" Decap Passed "outer source is no node we know"
    InnerTruncated "inner_truncated" Decap Passed "no whole IPv4 header inside"
    InnerBadHeader "inner_bad_header" Decap Passed "inner version or header length cannot be (IPv6 included)"
    InnerBadLength "inner_bad_length" Decap Passed "inner total length is more than the outer packet carries or less than a header"
    InnerBadChecksum "inner_bad_checksum" Decap Passed "inner header checksum is wrong"
    NestedTunnel "nested_tunnel" Decap Passed "another tunnel inside: IPIP or 6in4"
    MartianSource "martian_source" Decap Dropped "inner source is no host's: 0/8, 127/8, 224/3"
    OwnSource "own_source" Decap Dropped "inner source is one of our own: this node's or a local pod's"
    ForgedSource "forged_source" Decap Dropped "inner source belongs to another node than the one that sent it"
    SourceUnknown "source_unknown" Decap Passed "no route covers the inner source"
    EcnViolation "ecn_violation" Decap Dropped "congestion marked outside, not ECN-capable inside (RFC 6040 §4.2: must drop)"
    InnerTtlZero "inner_ttl_zero" Decap Dropped "inner TTL is 0 (RFC 2003 §3.1: must discard)"
    CannotUnwrap "cannot_unwrap" Decap Passed "the kernel could not take the outer header off (GSO of another kind, memory)"
    HandoverStray "handover_stray" Decap Dropped "unwrapped by XDP, but for a VLAN, for another machine or cut short after all; passed up it would be plain"
    // Delivery of what passed them all.
    MartianToStack "martian_to_stack" Decap Forwarded "as martian_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    OwnToStack "own_to_stack" Decap Forwarded "as own_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    ForgedToStack "forged_to_stack" Decap Forwarded "as forged_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    ToStack "to_stack" Decap Forwarded "unwrapped for the kernel: the fast path is off"
    NoPortsToStack "no_ports_to_stack" Decap Forwarded "unwrapped for the kernel: neither TCP nor UDP, never leased"
    ControlToStack "control_to_stack" Decap Forwarded "unwrapped for the kernel: TCP SYN, FIN or RST, which it should see"
    NoLeaseToStack "no_lease_to_stack" Decap Forwarded "unwrapped for the kernel: its flow has no lease"
    LeaseExpiredToStack "lease_expired_to_stack" Decap Forwarded "unwrapped for the kernel: its flow's lease is over; netfilter is asked again"
    LeaseOutdatedToStack "lease_outdated_to_stack" Decap Forwarded "unwrapped for the kernel: a route, node or pod changed since its flow got a lease"
    OptionsToStack "options_to_stack" Decap Forwarded "unwrapped for the kernel: it has IP options"
    FragmentToStack "fragment_to_stack" Decap Forwarded "unwrapped for the kernel: it is a fragment"
    TtlToStack "ttl_to_stack" Decap Forwarded "unwrapped for the kernel: its TTL would reach 0"
    NoEndpointToStack "no_endpoint_to_stack" Decap Forwarded "unwrapped for the kernel: its destination is no local pod whose MAC is known"
    ToPod "to_pod" Decap Forwarded "unwrapped and put into the pod: the fast path"
    // grant_decap: on its way from the stack into a pod, whoever sent it.
    GrantNoFlow "grant_no_flow" Decap Passed "into a pod: not TCP or UDP over IPv4, a fragment, or with options: never leased"
    GrantGiven "grant_given" Decap Passed "into a pod: netfilter lets its flow pass, which is leased from here on"
    GrantLeased "grant_leased" Decap Passed "into a pod: its flow has a lease, but this packet came by the stack"
    GrantUnmarked "grant_unmarked" Decap Passed "into a pod: new, translated or excluded as netfilter sees it: no lease"
    GrantUnproven "grant_unproven" Decap Passed "into a pod: not from the wire, or not as it came from there (translated unknown to conntrack): no lease"
    GrantConnectionControl "grant_connection_control" Decap Passed "into a pod: TCP SYN, FIN or RST: leases of its flow end"
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Write as _,
        format,
        string::{String, ToString as _},
    };

    use super::*;

    #[test]
    fn names_are_the_variants_in_snake_case() {
        for reason in Reason::ALL {
            let mut name = String::new();
            for letter in format!("{reason:?}").chars() {
                if letter.is_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_lowercase());
            }
            assert_eq!(reason.as_str(), name);
        }
    }

    #[test]
    fn numbers_are_indices() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    /// `docs/counters.md` is this table; `BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_is_fresh() {
        let mut table = "# Counters\n\nMade from `dataplane-common/src/reason.rs` (`BLESS=1 cargo test -p dataplane-common`).\n\
            `tunless counters list` shows them. A packet is counted once by every program it\n\
            crosses; a GSO packet counts as one. Bytes are those of the IP packet as the program got it.\n\n\
            | reason | direction | verdict | a packet that |\n|---|---|---|---|\n"
            .to_string();
        for reason in Reason::ALL {
            writeln!(
                table,
                "| `{}` | {} | {} | {} |",
                reason.as_str(),
                reason.direction().as_str(),
                reason.verdict().as_str(),
                reason.caption()
            )
            .unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/counters.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            table,
            "docs/counters.md is stale: run `BLESS=1 cargo test -p dataplane-common`"
        );
    }
}
