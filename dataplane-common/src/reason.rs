//! Why a packet left a program the way it did.
//!
//! Every exit of every program names one [`Reason`], and each reason belongs
//! to one program and one verdict, so a counter table answers "why did this
//! packet vanish" and "why did the kernel get it" alike. `docs/counters.md` is
//! made from this file.
//!
//! `decap_xdp` drops by the same checks as `decap_tc`, and under its reasons:
//! what it does not drop it passes to `decap_tc`, which counts it.

use core::fmt;

use crate::{Direction, Program};

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
    ($($variant:ident $name:literal $program:ident $verdict:ident $caption:literal)*) => {
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

            /// Returns the program that counts it.
            #[must_use]
            pub const fn program(self) -> Program {
                match self { $(Self::$variant => Program::$program,)* }
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

impl Reason {
    /// Returns the reason that has this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// Returns which way the packet was going.
    #[must_use]
    pub const fn direction(self) -> Direction {
        self.program().direction()
    }

    /// Whether the packet skipped the stack.
    #[must_use]
    pub const fn is_fast(self) -> bool {
        matches!(
            self,
            Self::PodEncapsulated
                | Self::PodServiceEncapsulated
                | Self::DecapToPod
                | Self::DecapServiceToPod
        )
    }

    /// Whether the packet went between a pod and the wire, by us or by tunl0 in our place.
    #[must_use]
    pub const fn is_carried(self) -> bool {
        matches!(self.verdict(), Verdict::Forwarded) || self.is_left_to_tunl0()
    }

    /// Whether a node sent the packet from an inner source that is not its own.
    #[inline(always)]
    #[must_use]
    pub const fn is_forged_by_node(self) -> bool {
        matches!(
            self,
            Self::DecapMartianSource
                | Self::DecapOwnSource
                | Self::DecapForgedSource
                | Self::DecapMartianToStack
                | Self::DecapOwnToStack
                | Self::DecapForgedToStack
        )
    }

    /// Whether tunl0 encapsulates the packet in our place: on a tunnel device of
    /// our own `encap_host` passes nothing.
    #[must_use]
    pub const fn is_left_to_tunl0(self) -> bool {
        matches!((self.program(), self.verdict()), (Program::EncapHost, Verdict::Passed))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

reasons! {
    // encap_pod: from a pod's interface, fast path or pass.
    PodEncapsulated "pod_encapsulated" EncapPod Forwarded "wrapped at the pod's interface: the fast path"
    PodServiceEncapsulated "pod_service_encapsulated" EncapPod Forwarded "wrapped at the pod's interface, its destination exchanged for the pod behind the Service: the fast path"
    PodTryOver "pod_try_over" EncapPod Passed "`tunless try` is over and was not kept: all is as if no program were there"
    PodTruncated "pod_truncated" EncapPod Passed "shorter than its headers"
    PodNotIpv4 "pod_not_ipv4" EncapPod Passed "not IPv4: ARP, IPv6, or a VLAN other than 0"
    PodBadHeader "pod_bad_header" EncapPod Passed "IPv4 header whose version, header length or total length cannot be"
    PodNotForHost "pod_not_for_host" EncapPod Passed "the frame is addressed to another machine, or to many"
    PodForgedSource "pod_forged_source" EncapPod Passed "source is not the address of the pod on this interface, or the lease another pod's; rp_filter judges it"
    PodNoRoute "pod_no_route" EncapPod Passed "destination is not a pod of another node"
    PodDirect "pod_direct" EncapPod Passed "destination's packets travel plain, as the kernel routes them"
    PodNodeUnreachable "pod_node_unreachable" EncapPod Passed "the destination's node has no route over an underlay interface"
    PodTtlExpired "pod_ttl_expired" EncapPod Passed "TTL would reach 0; the kernel sends Time Exceeded"
    PodTooBig "pod_too_big" EncapPod Passed "does not fit the node's MTU with the outer header, or is SCTP GSO, whose segments have sizes of their own; the kernel fragments or sends Fragmentation Needed"
    PodOptions "pod_options" EncapPod Passed "has IP options, which the kernel has to look at"
    PodFragment "pod_fragment" EncapPod Passed "is a fragment"
    PodBadChecksum "pod_bad_checksum" EncapPod Passed "header checksum is wrong; the kernel discards it (RFC 1812 §5.2.2)"
    PodConnectionControl "pod_connection_control" EncapPod Passed "TCP SYN, FIN or RST, which the stack should see"
    PodNoPorts "pod_no_ports" EncapPod Passed "neither TCP nor UDP: never leased"
    PodNoLease "pod_no_lease" EncapPod Passed "its flow has no lease: new, translated, denied, or to no remote pod"
    PodLeaseExpired "pod_lease_expired" EncapPod Passed "its flow's lease is over; netfilter is asked again"
    PodLeaseOutdated "pod_lease_outdated" EncapPod Passed "a route, node or pod changed since its flow got a lease; netfilter is asked again"
    PodAlreadyEncapsulated "pod_already_encapsulated" EncapPod Passed "already a tunnel packet with offloads pending (a pod running VXLAN)"
    PodCannotEncapsulate "pod_cannot_encapsulate" EncapPod Passed "the kernel gave no room for an outer header (GSO that is neither TCP nor UDP, memory)"
    PodCannotTranslate "pod_cannot_translate" EncapPod Dropped "to a Service; the kernel had no memory to write another destination once the packet was wrapped"
    // encap_host: out of the tunnel device. What cannot be wrapped must not leave.
    HostEncapsulated "host_encapsulated" EncapHost Forwarded "wrapped at the tunnel device: the stack path"
    HostLeaseGranted "host_lease_granted" EncapHost Forwarded "wrapped at the tunnel device; netfilter lets its flow pass, which is leased from here on"
    HostServiceLeaseGranted "host_service_lease_granted" EncapHost Forwarded "wrapped at the tunnel device; netfilter lets its flow to a Service pass, which is leased from here on, translation included"
    HostUnansweredLeaseGranted "host_unanswered_lease_granted" EncapHost Forwarded "wrapped at the tunnel device; netfilter lets its UDP flow pass, which has no answer and is leased from here on"
    HostLeased "host_leased" EncapHost Forwarded "wrapped at the tunnel device; its flow has a lease, but this packet came by the stack"
    HostUnmarked "host_unmarked" EncapHost Forwarded "wrapped at the tunnel device; new, translated or excluded as netfilter sees it: no lease"
    HostUnanswered "host_unanswered" EncapHost Forwarded "wrapped at the tunnel device; netfilter lets its UDP flow pass, which has no answer: no lease before three packets over two seconds, nor while too many such flows have one"
    HostUnproven "host_unproven" EncapHost Forwarded "wrapped at the tunnel device; not as a pod of ours sent it (translated unknown to conntrack, or the host's own): no lease"
    HostConnectionControl "host_connection_control" EncapHost Forwarded "wrapped at the tunnel device; TCP SYN, FIN or RST: leases of its flow end"
    HostTruncated "host_truncated" EncapHost Dropped "shorter than its headers"
    HostNotIpv4 "host_not_ipv4" EncapHost Dropped "not IPv4: ARP, IPv6, or a VLAN other than 0"
    HostBadHeader "host_bad_header" EncapHost Dropped "IPv4 header whose version, header length or total length cannot be"
    HostNoRoute "host_no_route" EncapHost Dropped "destination is not a pod of another node"
    HostNodeUnreachable "host_node_unreachable" EncapHost Dropped "the destination's node has no route over an underlay interface"
    HostTtlExpired "host_ttl_expired" EncapHost Dropped "TTL 0 (RFC 2003 §3.1: must not be wrapped)"
    HostTooBig "host_too_big" EncapHost Dropped "does not fit the node's MTU with the outer header, though the route says how much does; or SCTP GSO, whose segments have sizes of their own"
    HostAlreadyEncapsulated "host_already_encapsulated" EncapHost Dropped "already a tunnel packet with offloads pending (a pod running VXLAN)"
    HostCannotEncapsulate "host_cannot_encapsulate" EncapHost Dropped "the kernel gave no room for an outer header (GSO that is neither TCP nor UDP, memory)"
    // encap_host on tunl0: what we do not take, tunl0 encapsulates.
    Tunl0TryOver "tunl0_try_over" EncapHost Passed "left to tunl0: `tunless try` is over and was not kept"
    Tunl0Truncated "tunl0_truncated" EncapHost Passed "left to tunl0: shorter than its headers"
    Tunl0NotIpv4 "tunl0_not_ipv4" EncapHost Passed "left to tunl0: not IPv4"
    Tunl0BadHeader "tunl0_bad_header" EncapHost Passed "left to tunl0: IPv4 header whose version, header length or total length cannot be"
    Tunl0NoRoute "tunl0_no_route" EncapHost Passed "left to tunl0: destination is not a pod of another node, as far as we know"
    Tunl0NodeUnreachable "tunl0_node_unreachable" EncapHost Passed "left to tunl0: the destination's node has no route over an underlay interface"
    Tunl0TtlExpired "tunl0_ttl_expired" EncapHost Passed "left to tunl0: TTL 0"
    Tunl0TooBig "tunl0_too_big" EncapHost Passed "left to tunl0: does not fit the node's MTU with the outer header, or is SCTP GSO; it sends Fragmentation Needed"
    Tunl0AlreadyEncapsulated "tunl0_already_encapsulated" EncapHost Passed "left to tunl0: already a tunnel packet with offloads pending (a pod running VXLAN)"
    Tunl0CannotEncapsulate "tunl0_cannot_encapsulate" EncapHost Passed "left to tunl0: the kernel gave no room for an outer header (GSO that is neither TCP nor UDP, memory)"
    // decap_xdp: what decap_tc would count is left to it.
    XdpUnwrapped "xdp_unwrapped" DecapXdp Passed "unwrapped by XDP and handed to decap_tc, which counts its delivery"
    XdpMarked "xdp_marked" DecapXdp Passed "left to decap_tc with a mark: whether XDP metadata arrives on this link is not proven yet"
    XdpUnable "xdp_unable" DecapXdp Passed "the driver has no room for XDP metadata; decap_tc unwraps instead"
    // Decapsulation, in the order of the checks.
    DecapTryOver "decap_try_over" DecapTc Passed "left to tunl0, also what is not encapsulated: `tunless try` is over and was not kept"
    DecapOuterTruncated "decap_outer_truncated" DecapTc Passed "shorter than an Ethernet and an IPv4 header"
    DecapNotIpv4 "decap_not_ipv4" DecapTc Passed "not IPv4: ARP, IPv6, or a VLAN other than 0"
    DecapNotIpip "decap_not_ipip" DecapTc Passed "IPv4, but not protocol 4: the host's own traffic"
    DecapNotForHost "decap_not_for_host" DecapTc Passed "the frame is addressed to another machine, or to many"
    DecapOuterBadHeader "decap_outer_bad_header" DecapTc Passed "outer version or header length cannot be"
    DecapOuterOptions "decap_outer_options" DecapTc Passed "outer header has options; a tunnel writes none"
    DecapOuterBadChecksum "decap_outer_bad_checksum" DecapTc Passed "outer header checksum is wrong"
    DecapOuterFragment "decap_outer_fragment" DecapTc Passed "outer packet is a fragment (a peer with DF=0 over a smaller underlay); nobody reassembles it"
    DecapOuterBadLength "decap_outer_bad_length" DecapTc Passed "outer total length is more than the frame holds or less than a header"
    DecapOtherDestination "decap_other_destination" DecapTc Passed "outer destination is not our node address"
    DecapUnknownNode "decap_unknown_node" DecapTc Passed "outer source is not a node we know"
    DecapInnerTruncated "decap_inner_truncated" DecapTc Passed "no whole IPv4 header inside"
    DecapInnerBadHeader "decap_inner_bad_header" DecapTc Passed "inner version or header length cannot be (IPv6 included)"
    DecapInnerBadLength "decap_inner_bad_length" DecapTc Passed "inner total length is more than the outer packet carries or less than a header"
    DecapInnerBadChecksum "decap_inner_bad_checksum" DecapTc Passed "inner header checksum is wrong"
    DecapNestedTunnel "decap_nested_tunnel" DecapTc Passed "another tunnel inside: IPIP or 6in4"
    DecapMartianSource "decap_martian_source" DecapTc Dropped "inner source is no host's: 0/8, 127/8, 224/3"
    DecapOwnSource "decap_own_source" DecapTc Dropped "inner source is one of our own: this node's or a local pod's"
    DecapForgedSource "decap_forged_source" DecapTc Dropped "inner source belongs to another node than the one that sent it"
    DecapSourceUnknown "decap_source_unknown" DecapTc Passed "no route covers the inner source, or IPsec protects the node (the kernel checks its packets)"
    DecapEcnViolation "decap_ecn_violation" DecapTc Dropped "congestion marked outside, not ECN-capable inside (RFC 6040 §4.2: must drop)"
    DecapInnerTtlZero "decap_inner_ttl_zero" DecapTc Dropped "inner TTL is 0 (RFC 2003 §3.1: must discard)"
    DecapGsoToTunl0 "decap_gso_to_tunl0" DecapTc Passed "merged by GRO, and not for a pod of ours: left to tunl0, behind which it is a tunnel packet no more (kernels without BPF_F_ADJ_ROOM_DECAP_IPXIP4)"
    DecapCannotUnwrap "decap_cannot_unwrap" DecapTc Passed "the kernel could not take the outer header off (GSO of another kind, memory)"
    DecapNodeOptions "decap_node_options" DecapTc Dropped "beside tunl0, which would unwrap it without our source check: a node's outer header has options; a tunnel writes none"
    DecapNodeToMany "decap_node_to_many" DecapTc Dropped "beside tunl0, which would unwrap it without our source check: a node's tunnel packet in a broadcast or multicast frame (RFC 1122 §3.3.6: should discard)"
    DecapNodeShortFragment "decap_node_short_fragment" DecapTc Dropped "beside tunl0, which would unwrap it without our source check: a node's fragment that ends or begins within the inner header (RFC 1858 §3, RFC 3128)"
    DecapNodeTwice "decap_node_twice" DecapTc Dropped "beside tunl0, which would unwrap it twice, the second time without our source check: a node's tunnel packet inside another, to no pod of ours"
    DecapHandoverStray "decap_handover_stray" DecapTc Dropped "unwrapped by XDP, but for a VLAN, for another machine or cut short after all; passed up it would be plain"
    DecapHandoverLost "decap_handover_lost" DecapTc Dropped "unwrapped by XDP, but its XDP metadata did not arrive; from here on decap_tc unwraps on this link"
    // Delivery of what passed them all.
    DecapMartianToStack "decap_martian_to_stack" DecapTc Forwarded "as decap_martian_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    DecapOwnToStack "decap_own_to_stack" DecapTc Forwarded "as decap_own_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    DecapForgedToStack "decap_forged_to_stack" DecapTc Forwarded "as decap_forged_source; unwrapped for the kernel to judge, as `spoof: stack` says"
    DecapToStack "decap_to_stack" DecapTc Forwarded "unwrapped for the kernel: the fast path is off"
    DecapNoPortsToStack "decap_no_ports_to_stack" DecapTc Forwarded "unwrapped for the kernel: neither TCP nor UDP, never leased"
    DecapControlToStack "decap_control_to_stack" DecapTc Forwarded "unwrapped for the kernel: TCP SYN, FIN or RST, which it should see"
    DecapNoLeaseToStack "decap_no_lease_to_stack" DecapTc Forwarded "unwrapped for the kernel: its flow has no lease"
    DecapLeaseExpiredToStack "decap_lease_expired_to_stack" DecapTc Forwarded "unwrapped for the kernel: its flow's lease is over; netfilter is asked again"
    DecapLeaseOutdatedToStack "decap_lease_outdated_to_stack" DecapTc Forwarded "unwrapped for the kernel: a route, node or pod changed since its flow got a lease"
    DecapOptionsToStack "decap_options_to_stack" DecapTc Forwarded "unwrapped for the kernel: it has IP options"
    DecapFragmentToStack "decap_fragment_to_stack" DecapTc Forwarded "unwrapped for the kernel: it is a fragment"
    DecapTtlToStack "decap_ttl_to_stack" DecapTc Forwarded "unwrapped for the kernel: its TTL would reach 0"
    DecapGsoToStack "decap_gso_to_stack" DecapTc Forwarded "unwrapped for the kernel, not for a pod of ours, merged by GRO: forwarded out of a NIC it is segmented in software or, by ice, dropped; sent into the tunnel it is host_already_encapsulated (kernels without BPF_F_ADJ_ROOM_DECAP_IPXIP4)"
    DecapNoEndpointToStack "decap_no_endpoint_to_stack" DecapTc Forwarded "unwrapped for the kernel: its destination is no local pod whose MAC is known"
    DecapCannotTranslateToStack "decap_cannot_translate_to_stack" DecapTc Forwarded "unwrapped for the kernel: an answer of a Service; the kernel had no memory to write the Service's address"
    DecapToPod "decap_to_pod" DecapTc Forwarded "unwrapped and put into the pod: the fast path"
    DecapServiceToPod "decap_service_to_pod" DecapTc Forwarded "unwrapped, its source exchanged for the Service's, and put into the pod: the fast path"
    // grant_decap: on its way from the stack into a pod, whoever sent it.
    GrantTryOver "grant_try_over" GrantDecap Passed "into a pod: `tunless try` is over and was not kept, so nothing is leased"
    GrantNoFlow "grant_no_flow" GrantDecap Passed "into a pod: not TCP or UDP over IPv4, a fragment, or with options: never leased"
    GrantGiven "grant_given" GrantDecap Passed "into a pod: netfilter lets its flow pass, which is leased from here on"
    GrantServiceGiven "grant_service_given" GrantDecap Passed "into a pod: netfilter lets the answers of its Service pass, which are leased from here on, translation included"
    GrantUnansweredGiven "grant_unanswered_given" GrantDecap Passed "into a pod: netfilter lets its UDP flow pass, which has no answer and is leased from here on"
    GrantLeased "grant_leased" GrantDecap Passed "into a pod: its flow has a lease, but this packet came by the stack"
    GrantUnmarked "grant_unmarked" GrantDecap Passed "into a pod: new, translated or excluded as netfilter sees it: no lease"
    GrantUnanswered "grant_unanswered" GrantDecap Passed "into a pod: netfilter lets its UDP flow pass, which has no answer: no lease before three packets over two seconds, nor while too many such flows have one"
    GrantUnproven "grant_unproven" GrantDecap Passed "into a pod: not from the wire, or not as it came from there (translated unknown to conntrack): no lease"
    GrantConnectionControl "grant_connection_control" GrantDecap Passed "into a pod: TCP SYN, FIN or RST: leases of its flow end"
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

    /// The prefix is for people; what it tells is in the table.
    #[test]
    fn names_begin_with_their_program() {
        for reason in Reason::ALL {
            let name = reason.as_str();
            let prefix = match reason.program() {
                Program::EncapPod => "pod_",
                Program::EncapHost if reason.is_left_to_tunl0() => "tunl0_",
                Program::EncapHost => "host_",
                Program::DecapTc => "decap_",
                Program::DecapXdp => "xdp_",
                Program::GrantDecap => "grant_",
                Program::ShadowIn | Program::ShadowOut => {
                    panic!("{name}: its findings are no reasons")
                }
            };
            assert!(name.starts_with(prefix), "{name}");
            assert_eq!(Reason::from_name(name), Some(*reason));
        }
        assert_eq!(Reason::from_name("decap_"), None);
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
            crosses; a GSO packet counts as one. Bytes are those of the IP packet as the program got it.\n\
            What `decap_xdp` drops it counts under the reasons of `decap_tc`.\n\n\
            | reason | program | direction | verdict | a packet that |\n|---|---|---|---|---|\n"
            .to_string();
        for reason in Reason::ALL {
            writeln!(
                table,
                "| `{reason}` | `{}` | {} | {} | {} |",
                reason.program(),
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
