//! IPv4 headers that may be anything, byte by byte.
//!
//! `tunless_lab::packet::Ipv4` makes them; what it has no field for is patched
//! here, and what comes back is read here without believing it.

const TOS: usize = 1;
const ID: usize = 4;
const FLAGS: usize = 6;
const PROTOCOL: usize = 9;
const CHECKSUM: usize = 10;
/// Length of a header without options.
pub const HEADER: usize = 20;

const ICMP: u8 = 1;
const IPIP: u8 = 4;
/// Reserved, must be zero: RFC 3514 has a use for it.
pub const EVIL: u16 = 0x8000;
/// Don't fragment.
pub const DF: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;
/// More fragments, and the offset: not 0 in a fragment.
pub const FRAGMENT: u16 = 0x3fff;

/// A 16-bit field; none where the packet ends before it.
pub fn field(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

fn set(packet: &mut [u8], at: usize, value: u16) {
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// DSCP and ECN.
pub fn tos(packet: &[u8]) -> Option<u8> {
    packet.get(TOS).copied()
}

/// The IP ID.
pub fn id(packet: &[u8]) -> Option<u16> {
    field(packet, ID)
}

/// Flags and fragment offset.
pub fn fragment(packet: &[u8]) -> Option<u16> {
    field(packet, FLAGS)
}

/// Sets DSCP and ECN; the checksum stays as it is.
pub fn set_tos(packet: &mut [u8], tos: u8) {
    packet[TOS] = tos;
}

/// Sets the IP ID; the checksum stays as it is.
pub fn set_id(packet: &mut [u8], id: u16) {
    set(packet, ID, id);
}

/// Sets flags and fragment offset; the checksum stays as it is.
pub fn set_fragment(packet: &mut [u8], fragment: u16) {
    set(packet, FLAGS, fragment);
}

/// Header length as the header says, if the packet has as much.
pub fn header_length(packet: &[u8]) -> Option<usize> {
    let length = usize::from(packet.first()? & 0xf) * 4;
    (length >= HEADER && length <= packet.len()).then_some(length)
}

fn checksum(header: &[u8]) -> u16 {
    let words =
        header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

/// Whether the header checksum is right.
pub fn checksum_is_right(packet: &[u8]) -> bool {
    header_length(packet).is_some_and(|length| checksum(&packet[..length]) == 0xffff)
}

/// Makes the header checksum right.
pub fn mend_checksum(packet: &mut [u8]) {
    if let Some(length) = header_length(packet) {
        set(packet, CHECKSUM, 0);
        let sum = checksum(&packet[..length]);
        set(packet, CHECKSUM, !sum);
    }
}

/// What the packet carries, if it is IP in IP and no later fragment.
pub fn carried(packet: &[u8]) -> Option<&[u8]> {
    let is_first = fragment(packet)? & OFFSET == 0;
    let length = header_length(packet)?;
    (packet.get(PROTOCOL) == Some(&IPIP) && is_first).then(|| &packet[length..])
}

/// The packet that an ICMP error quotes.
pub fn quoted(packet: &[u8]) -> Option<&[u8]> {
    if packet.get(PROTOCOL) != Some(&ICMP) || fragment(packet)? & OFFSET != 0 {
        return None;
    }
    let icmp = &packet[header_length(packet)?..];
    matches!(icmp.first(), Some(3 | 4 | 5 | 11 | 12)).then(|| icmp.get(8..))?
}
