//! Flows that conntrack translates for a Service.
//!
//! A pod A:p sends to the Service V:v; conntrack makes of it A:p → B:b, where B is a pod behind the
//! Service, and of the answers B:b → A:p again V:v → A:p. A lease of such a flow is given under the
//! tuple with which packets come to our hook in front of netfilter: A:p → V:v from the pod, B:b → A:p
//! from the wire.

use aya_ebpf::programs::TcContext;
use dataplane_common::{
    Direction, Flow, IfIndex, Lease, Translation,
    ipv4::{OUTER_LENGTH, PROTOCOL_UDP},
};

use super::arrival;
use crate::{
    helpers, maps,
    packet::{Frame, Ports},
    settings,
};

/// Where TCP and UDP keep their checksums, bytes into the header (RFC 9293 §3.1, RFC 768).
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// What a translated packet shows of its flow.
pub enum Shown {
    /// Under what the lease is, and what it has to write.
    Lease { flow: Flow, translation: Translation },
    /// Nothing that a lease could be given for, yet.
    Nothing,
    /// That the leases there are lead elsewhere.
    Otherwise,
}

/// Looks for the flow of a packet that conntrack has translated to `after`. `tag` is the one with
/// which it came by `interface`, not 0.
#[inline(always)]
pub fn shown(after: &Flow, tag: u16, interface: IfIndex) -> Shown {
    match after.direction() {
        Direction::Encap => request(after, tag, interface),
        Direction::Decap => answer(after, tag),
    }
}

/// As what the pod sent it: noted at its interface, by which no other pod writes.
#[inline(always)]
fn request(after: &Flow, tag: u16, interface: IfIndex) -> Shown {
    let Some(came) = arrival::of(tag, interface) else { return Shown::Nothing };
    if came == *after || !came.differs_at_most_remotely(after) {
        return Shown::Otherwise;
    }
    let translation = Translation::to(after.destination, after.destination_port);
    Shown::Lease { flow: came, translation }
}

/// As what the wire brought it: that is known from the lease of the requests alone. What was noted
/// under the tag may be another sender's, who can look for a port that has the same one.
#[inline(always)]
fn answer(after: &Flow, tag: u16) -> Shown {
    let request = after.reverse();
    let Some(entry) = maps::lease(&request) else { return Shown::Nothing };
    let translation = entry.translation;
    let expires = maps::read_last(&entry.expires);
    let is_own = maps::is_still_of(entry, &request) && Lease::is_signed(expires, &request);
    if !is_own || Lease::is_revoked_word(expires) || translation.is_none() {
        return Shown::Nothing;
    }
    let came = translation.of(&request).reverse();
    if came.tag(settings::secret()) != tag {
        return Shown::Otherwise;
    }
    let translation = Translation::to(after.source, after.source_port);
    Shown::Lease { flow: came, translation }
}

/// Rewrites the remote end of the packet whose IP header is `at` bytes into the frame. Ends every
/// [`Frame`].
///
/// # Errors
/// If there is no memory to write to; then the packet is as it was.
#[inline(always)]
pub fn translate(
    ctx: &TcContext,
    at: usize,
    direction: Direction,
    to: &Translation,
) -> Result<(), i64> {
    const UNREADABLE: i64 = -1;
    let frame = Frame::of_tc(ctx);
    let transport = at + OUTER_LENGTH;
    let mut header = frame.ipv4(at).ok_or(UNREADABLE)?;
    let ports: Ports = frame.read(transport).ok_or(UNREADABLE)?;
    let is_udp = header.protocol() == PROTOCOL_UDP;
    let checksum = transport + if is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
    let (address, port) = match direction {
        Direction::Encap => (header.destination(), ports.destination),
        Direction::Decap => (header.source(), ports.source),
    };
    helpers::replace_address(ctx, checksum, is_udp, address, to.address)?;
    if port != to.port {
        // The first call made the header writable, which is all that can fail.
        let _ = helpers::replace_port(ctx, checksum, is_udp, port, to.port);
    }
    let frame = Frame::of_tc(ctx);
    match direction {
        Direction::Encap => header.set_destination(to.address),
        Direction::Decap => header.set_source(to.address),
    }
    let _ = frame.write_ipv4(at, &header);
    let _ = frame.edit(transport, |ports: &mut Ports| match direction {
        Direction::Encap => ports.destination = to.port,
        Direction::Decap => ports.source = to.port,
    });
    Ok(())
}
