//! The header that tunl0 wrote beside the one that we would have written.

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Hop, Mac,
    ipv4::Ipv4Header,
    shadow::{Difference, Finding},
};

use crate::{
    helpers, maps,
    packet::{Ethernet, Frame},
    skb,
};

/// Congestion experienced, and the mark of a sender that knows ECN (RFC 3168 §5).
const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;

/// The first field that differs. DF may, as tunl0 inherits it, and ECT(0) in the place of CE: the packet is
/// known to differ then (`tests/vm/src/suites/parity/difference.rs`). The identification may: tunl0 numbers its packets, and with DF that
/// means nothing (RFC 6864 §4.1); so may the checksum with it. Of a GSO packet neither length counts, because
/// the kernel writes that of each segment.
#[inline(always)]
pub fn headers(
    theirs: &Ipv4Header,
    ours: &Ipv4Header,
    inner: &Ipv4Header,
    is_gso: bool,
) -> Finding {
    let is_ce_hidden = inner.tos() & CE == CE
        && theirs.tos() | CE == ours.tos() | CE
        && theirs.tos() & CE == ECT_0;
    if theirs.tos() != ours.tos() && !is_ce_hidden {
        Finding::OutTos
    } else if theirs.ttl() != ours.ttl() {
        Finding::OutTtl
    } else if !theirs.is_dont_fragment() && inner.is_dont_fragment() {
        Finding::OutDontFragment
    } else if !is_gso && theirs.total_length() != ours.total_length() {
        Finding::OutLength
    } else if is_ce_hidden || !theirs.is_dont_fragment() {
        Finding::OutKnown
    } else {
        Finding::OutSame
    }
}

/// Whether the frame is for another next hop than the one whose MAC we know.
#[inline(always)]
pub fn is_other_mac(frame: Frame, hop: &Hop) -> bool {
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return false };
    hop.destination.is_known() && !is_same(ethernet.destination, hop.destination)
}

#[inline(always)]
fn is_same(one: Mac, other: Mac) -> bool {
    (one.0[0] ^ other.0[0]) | (one.0[1] ^ other.0[1]) | (one.0[2] ^ other.0[2]) == 0
}

/// Keeps the packet's headers as the last with this finding.
#[inline(always)]
pub fn keep(
    ctx: &TcContext,
    finding: Finding,
    theirs: &Ipv4Header,
    ours: &Ipv4Header,
    inner: &Ipv4Header,
) {
    let Some(last) = maps::difference(finding) else { return };
    *last = Difference {
        at: helpers::now(),
        theirs: words(theirs),
        ours: words(ours),
        inner: words(inner),
        ifindex: skb::ifindex(ctx).0,
    };
}

#[inline(always)]
fn words(header: &Ipv4Header) -> [u32; 5] {
    let (first, second, last) = header.words();
    [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32, last]
}
