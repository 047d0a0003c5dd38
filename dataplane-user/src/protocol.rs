//! IP protocols by name (IANA's registry of protocol numbers).

/// Those that have a name here.
const NAMES: [(u16, &str); 9] = [
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipip"),
    (6, "tcp"),
    (17, "udp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (132, "sctp"),
];

/// Returns the protocol's name, or its number; 0 is what a trace has for packets that are not IPv4.
#[must_use]
pub fn name(number: u16) -> String {
    if number == 0 {
        return "non-ipv4".to_owned();
    }
    let found = NAMES.iter().find(|(known, _)| *known == number);
    found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// Reads a protocol's name or number.
///
/// # Errors
/// If it is neither.
pub fn parse(text: &str) -> Result<u8, String> {
    let known = NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
    let number = known.map(|(number, _)| *number).or_else(|| text.parse().ok());
    match number.map(u8::try_from) {
        Some(Ok(number @ 1..)) => Ok(number),
        _ => Err(format!(
            "`{text}` is not a protocol: write tcp, udp, icmp, or a number from 1 to 255"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_has_a_name_or_a_number() {
        for (text, number) in [("tcp", 6), ("UDP", 17), ("icmp", 1), ("89", 89), ("255", 255)] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "256", "-1", "tcpp", "6.0", "70000"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(name(0), "non-ipv4");
        assert_eq!((name(6), name(89)), ("tcp".to_owned(), "89".to_owned()));
    }
}
