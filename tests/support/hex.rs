//! Two frames side by side, for a person.

use std::fmt::Write as _;

use etherparse::Ipv4Header;

use super::packet::ETHERNET;

/// What was expected, what came, and a mark under every byte that differs.
#[must_use]
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let mut text = format!("expected {}\nactual   {}\n", describe(expected), describe(actual));
    for start in (0..expected.len().max(actual.len())).step_by(16) {
        let line = |bytes: &[u8]| {
            (start..start + 16)
                .map(|i| {
                    bytes.get(i).map_or_else(|| " --".to_string(), |byte| format!(" {byte:02x}"))
                })
                .collect::<String>()
        };
        let (want, got) = (line(expected), line(actual));
        if want != got {
            let _ = writeln!(text, "  {start:4} expected{want}\n       actual  {got}");
        }
    }
    text
}

/// One line: length, then each IPv4 header from the outside in.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let mut text = format!("{} bytes", frame.len());
    let mut rest = frame.get(ETHERNET..).unwrap_or_default();
    while let Ok((ip, payload)) = Ipv4Header::from_slice(rest) {
        let [a, b] = [ip.source, ip.destination].map(std::net::Ipv4Addr::from);
        let _ = write!(
            text,
            " | {a} > {b} proto {} ttl {} length {} id {} {}{} offset {} checksum {}",
            ip.protocol.0,
            ip.time_to_live,
            ip.total_len,
            ip.identification,
            if ip.dont_fragment { "DF" } else { "" },
            if ip.more_fragments { "MF" } else { "" },
            ip.fragment_offset.value(),
            if ip.header_checksum == ip.calc_header_checksum() { "right" } else { "WRONG" },
        );
        if ip.protocol.0 != 4 {
            break;
        }
        rest = payload;
    }
    text
}
