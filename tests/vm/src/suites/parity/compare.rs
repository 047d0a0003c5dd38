//! Two observations of one probe: equal, but for what [`Difference`] lists.

use std::{collections::BTreeSet, fmt::Write as _, iter};

use tunless_lab::frame::{Direction, Frame};

use super::{
    bytes,
    difference::Difference,
    node::Setup,
    observe::{ETHERNET, Place, Seen},
    probe::Probe,
};

const ECN: u8 = 0b11;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Compares what came out of a probe; `setup` is none where the kernel is
/// compared with itself. The differences met go into `met`; any other is the
/// error, as text for a person.
pub fn compare(
    probe: &Probe,
    reference: &[Seen],
    tested: &[Seen],
    setup: Option<Setup>,
    met: &mut BTreeSet<Difference>,
) -> Result<(), String> {
    let may = |difference: &Difference| setup.is_some_and(|it| difference.modes().include(it));
    let lost = probe.lost.filter(may);
    let mut mine = BTreeSet::new();
    let expected: Vec<Seen> = match lost {
        Some(difference) if !reference.is_empty() => {
            mine.insert(difference);
            Vec::new()
        }
        _ => reference.iter().map(|seen| expect(seen, setup, &mut mine)).collect(),
    };
    let mut tested: Vec<Seen> = match setup {
        Some(_) => tested.iter().map(without_chance).collect(),
        None => tested.iter().map(|seen| expect(seen, None, &mut mine)).collect(),
    };
    if probe.is_left && may(&Difference::PortUnreachable) {
        let before = tested.len();
        tested.retain(|seen| !is_port_unreachable(seen, probe));
        if tested.len() + 1 == before {
            mine.insert(Difference::PortUnreachable);
        }
    }
    if may(&Difference::Redirect) {
        let before = tested.len();
        tested.retain(|seen| !is_redirect(seen, probe));
        if tested.len() + 1 == before {
            mine.insert(Difference::Redirect);
        }
    }
    if may(&Difference::Padding) {
        for (expected, tested) in iter::zip(&expected, &mut tested) {
            if cut_padding(expected, tested, probe) {
                mine.insert(Difference::Padding);
            }
        }
    }
    if expected == tested {
        met.extend(mine);
        return Ok(());
    }
    Err(explain(probe, &expected, &tested))
}

/// What tunless makes of what tunl0 made.
fn expect(seen: &Seen, setup: Option<Setup>, met: &mut BTreeSet<Difference>) -> Seen {
    let mut seen = without_chance(seen);
    let packet = &mut seen.bytes[ETHERNET..];
    let Some(inner) = bytes::carried(packet).map(<[u8]>::to_vec) else { return seen };
    if seen.place != Place::Wire || !bytes::checksum_is_right(packet) {
        return seen;
    }
    let df_goes = setup.is_some_and(|it| Difference::FragmentDf.modes().include(it));
    let fragment = bytes::fragment(&inner).unwrap_or_default();
    if df_goes && fragment & bytes::DF != 0 && fragment & bytes::FRAGMENT != 0 {
        let inner = &mut packet[bytes::HEADER..];
        bytes::set_fragment(inner, fragment & !bytes::DF);
        bytes::mend_checksum(inner);
        met.insert(Difference::FragmentDf);
    }
    if bytes::id(packet) != Some(0) {
        bytes::set_id(packet, 0);
        met.insert(Difference::OuterId);
    }
    if setup.is_some() {
        let fragment = bytes::fragment(packet).unwrap_or_default();
        if fragment & bytes::DF == 0 {
            bytes::set_fragment(packet, fragment | bytes::DF);
            met.insert(Difference::OuterDf);
        }
        let (outside, inside) = (bytes::tos(packet), bytes::tos(&inner));
        if outside.map(|tos| tos & ECN) == Some(ECT_0) && inside.map(|tos| tos & ECN) == Some(CE) {
            bytes::set_tos(packet, outside.unwrap_or_default() | CE);
            met.insert(Difference::OuterCe);
        }
    }
    bytes::mend_checksum(packet);
    seen
}

/// The kernel's answer to a packet that no tunnel wants: it quotes what was
/// sent, up to 576 bytes in all, put together if it came in pieces.
fn is_port_unreachable(seen: &Seen, probe: &Probe) -> bool {
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    let (Some(packet), Some(sent)) = (seen.bytes.get(ETHERNET..), probe.packets.first()) else {
        return false;
    };
    let (Some(quoted), Some(header)) = (bytes::quoted(packet), bytes::header_length(packet)) else {
        return false;
    };
    let is_quote = if probe.packets.len() == 1 {
        quoted.len() >= bytes::HEADER && sent.starts_with(quoted)
    } else {
        quoted.get(12..bytes::HEADER) == sent.get(12..bytes::HEADER)
    };
    let back = (packet.get(12..16), packet.get(16..20)) == (sent.get(16..20), sent.get(12..16));
    let is_that = packet[header..].starts_with(&PORT_UNREACHABLE);
    seen.place == Place::Wire && back && is_that && is_quote
}

/// The kernel's advice, over the tunnel, to the source of what it forwards back
/// to where it came from.
fn is_redirect(seen: &Seen, probe: &Probe) -> bool {
    const REDIRECT_HOST: [u8; 2] = [5, 1];
    let outer = seen.bytes.get(ETHERNET..).filter(|_| seen.place == Place::Wire);
    let [sent] = probe.packets.as_slice() else { return false };
    let (Some(answer), Some(sent)) = (outer.and_then(bytes::carried), bytes::carried(sent)) else {
        return false;
    };
    let (Some(quoted), Some(header)) = (bytes::quoted(answer), bytes::header_length(answer)) else {
        return false;
    };
    answer[header..].starts_with(&REDIRECT_HOST)
        && answer.get(16..20) == sent.get(12..16)
        && quoted.get(12..) == sent.get(12..)
}

/// Cuts off what was behind the inner packet when it was sent, if it is there.
fn cut_padding(expected: &Seen, tested: &mut Seen, probe: &Probe) -> bool {
    let [sent] = probe.packets.as_slice() else { return false };
    let (end, whole) = (expected.bytes.len(), tested.bytes.len());
    let is_all = whole - ETHERNET + bytes::HEADER == sent.len();
    let is_longer = tested.place == Place::Pod && whole > end;
    let cut = is_longer && is_all && sent.ends_with(&tested.bytes[end..]);
    if cut {
        tested.bytes.truncate(end);
    }
    cut
}

/// Without the IP ID of the kernel's own errors, which it draws at random.
fn without_chance(seen: &Seen) -> Seen {
    let mut seen = seen.clone();
    let mut at = ETHERNET;
    while let Some(packet) = seen.bytes.get_mut(at..) {
        if bytes::quoted(packet).is_some() && bytes::checksum_is_right(packet) {
            bytes::set_id(packet, 0);
            bytes::mend_checksum(packet);
            break;
        }
        if bytes::carried(packet).is_none() {
            break;
        }
        at += bytes::header_length(packet).unwrap_or(bytes::HEADER);
    }
    seen
}

fn explain(probe: &Probe, expected: &[Seen], tested: &[Seen]) -> String {
    let mut text = format!("{} (id {:#06x})", probe.what, probe.tag);
    let places = |all: &[Seen]| all.iter().map(|seen| seen.place).collect::<Vec<_>>();
    if places(expected) != places(tested) {
        for (who, all) in [("tunl0", expected), ("tunless", tested)] {
            let _ = write!(text, "\n  {who}: {} frames", all.len());
            for Seen { place, bytes } in all {
                let frame = Frame { direction: Direction::In, vlan: None, bytes: bytes.clone() };
                let _ = write!(text, "\n    {place:?}, {} bytes: {frame}", bytes.len());
            }
        }
        return text;
    }
    for (number, (expected, tested)) in iter::zip(expected, tested).enumerate() {
        if expected != tested {
            let _ = write!(
                text,
                "
  frame {}, at the {:?}:",
                number + 1,
                tested.place
            );
            differing_fields(&mut text, &expected.bytes, &tested.bytes);
        }
    }
    text
}

/// One line for each field that differs.
fn differing_fields(text: &mut String, expected: &[u8], tested: &[u8]) {
    let (expected, tested) = (fields(expected), fields(tested));
    let end = expected.len().max(tested.len());
    let missing = (String::new(), "-".to_owned());
    for index in 0..end {
        let (name, value) = expected.get(index).unwrap_or(&missing);
        let (other_name, other) = tested.get(index).unwrap_or(&missing);
        if value != other {
            let name = if name.is_empty() { other_name } else { name };
            let _ = write!(text, "\n    {name}: tunl0 {value}, tunless {other}");
        }
    }
}

/// A frame's fields, layer by layer.
fn fields(frame: &[u8]) -> Vec<(String, String)> {
    const LAYOUT: [(&str, usize, usize); 11] = [
        ("version, header length", 0, 1),
        ("tos", 1, 1),
        ("total length", 2, 2),
        ("id", 4, 2),
        ("fragment", 6, 2),
        ("ttl", 8, 1),
        ("protocol", 9, 1),
        ("checksum", 10, 2),
        ("source", 12, 4),
        ("destination", 16, 4),
        ("options", 20, 0),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut fields = vec![("length".to_owned(), frame.len().to_string())];
    for (name, at) in [("to mac", 0), ("from mac", 6)] {
        fields.push((name.to_owned(), hex(frame.get(at..at + 6).unwrap_or_default())));
    }
    let mut packet = frame.get(ETHERNET..).unwrap_or_default();
    for layer in ["outermost", "second", "third", "fourth"] {
        let header = bytes::header_length(packet).unwrap_or(bytes::HEADER.min(packet.len()));
        for (name, at, length) in LAYOUT {
            let end = if length == 0 { header } else { at + length };
            fields.push((format!("{layer} {name}"), hex(packet.get(at..end).unwrap_or_default())));
        }
        if let Some(inside) = bytes::carried(packet) {
            packet = inside;
        } else if let Some(quoted) = bytes::quoted(packet) {
            fields.push((format!("{layer} icmp"), hex(&packet[header..header + 8])));
            packet = quoted;
        } else {
            fields.push((format!("{layer} payload"), hex(&packet[header..])));
            break;
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use tunless_lab::packet::{IPV4, Ipv4, ethernet};

    use super::*;
    use crate::suites::parity::node::{Conntrack, Mode};
    use crate::suites::parity::probe::{NODE, PEER, Probes, Way};

    fn probe() -> Probe {
        let mut probes = Probes::new(Way::Encap, 7);
        probes.add("x", |_| Vec::new());
        probes.finish().swap_remove(0)
    }

    fn wire(change: impl FnOnce(&mut Ipv4), inner_tos: u8) -> Vec<Seen> {
        let ip = Ipv4 { id: 7, tos: inner_tos, ..Way::Encap.inner(17) };
        let inner = Way::Encap.datagram(&ip, 60);
        let mut outer = Ipv4 { ttl: 63, ..Ipv4::ipip(NODE, PEER) };
        change(&mut outer);
        let bytes = ethernet([1; 6], [2; 6], IPV4, &outer.packet(&inner));
        vec![Seen { place: Place::Wire, bytes }]
    }

    fn result(tunl0: &[Seen], tunless: &[Seen]) -> Result<Vec<Difference>, String> {
        let mut met = BTreeSet::new();
        let setup = Setup::tunless(Mode::Replace, "off", Conntrack::Off);
        compare(&probe(), tunl0, tunless, Some(setup), &mut met)?;
        Ok(met.into_iter().collect())
    }

    #[test]
    fn listed_differences_are_met_and_no_others_pass() {
        let tunl0 = wire(|ip| (ip.df, ip.id, ip.tos) = (false, 77, 2), 3);
        let tunless = wire(|ip| ip.tos = 3, 3);
        let all = [Difference::OuterDf, Difference::OuterId, Difference::OuterCe];
        assert_eq!(result(&tunl0, &tunless), Ok(all.to_vec()));
        // tunl0's own is not what tunless has to do.
        result(&tunl0, &tunl0).unwrap_err();

        let tunless = wire(|ip| (ip.tos, ip.ttl) = (3, 62), 3);
        let text = result(&tunl0, &tunless).unwrap_err();
        assert!(text.contains("outermost ttl: tunl0 3f, tunless 3e"), "{text}");
        assert!(!text.contains("second"), "{text}");
        let text = result(&tunl0, &[]).unwrap_err();
        assert!(text.contains("tunless: 0 frames"), "{text}");
    }

    #[test]
    fn a_wrong_checksum_is_a_difference() {
        let tunl0 = wire(|ip| ip.id = 77, 0);
        let text = result(&tunl0, &wire(|ip| ip.checksum = Some(1), 0)).unwrap_err();
        assert!(text.contains("outermost checksum"), "{text}");
    }
}
