//! Facts about addresses and prefixes that more than one module asks for, and the one way in
//! which their text is read.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

/// Why a text is not an address or a prefix, as a predicate that follows the text.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unreadable {
    /// It is not an address.
    #[error("is no address")]
    Address,
    /// It is not an address with a prefix length.
    #[error("is no prefix")]
    Prefix,
    /// It is a prefix where an address belongs.
    #[error("has a prefix length; leave it out and write {0}")]
    HasLength(IpAddr),
    /// Numbers begin with zeros. Some programs read them as octal, so Go and Rust refuse them.
    #[error("has leading zeros; write {0}")]
    LeadingZeros(String),
}

/// Reads an address as Go's `net.ParseIP` does: without leading zeros, zone or blanks.
///
/// # Errors
/// If it is anything else: what, and what to write instead if that is clear.
pub fn parse_address(text: &str) -> Result<IpAddr, Unreadable> {
    text.parse().map_err(|_| match (without_zeros(text), text.split_once('/')) {
        (Some(decimal), _) => Unreadable::LeadingZeros(decimal.to_string()),
        (None, Some((address, length))) if parse_length(length).is_some() => {
            address.parse().map_or(Unreadable::Address, Unreadable::HasLength)
        }
        _ => Unreadable::Address,
    })
}

/// Reads an address with its prefix length as Go's `net.ParseCIDR` does. Host bits stay.
///
/// # Errors
/// If it is anything else: what, and what to write instead if that is clear.
pub fn parse_prefix(text: &str) -> Result<IpNet, Unreadable> {
    let (address, digits) = text.split_once('/').ok_or(Unreadable::Prefix)?;
    let length = parse_length(digits).ok_or(Unreadable::Prefix)?;
    let address = address.parse().map_err(|_| match without_zeros(address) {
        Some(decimal) => Unreadable::LeadingZeros(format!("{decimal}/{length}")),
        None => Unreadable::Prefix,
    })?;
    IpNet::new(address, length).map_err(|_| Unreadable::Prefix)
}

/// Reads what names a node's address as Felix's `ParseCIDROrIP` does, blanks around it aside: an
/// address without a length is a network of its own.
///
/// # Errors
/// If it is neither a prefix nor an address: what it is.
pub fn parse_prefix_or_address(text: &str) -> Result<IpNet, Unreadable> {
    let text = text.trim();
    if text.contains('/') { parse_prefix(text) } else { parse_address(text).map(IpNet::from) }
}

fn parse_length(digits: &str) -> Option<u8> {
    // `u8` alone would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Reads an IPv4 address whose numbers begin with zeros, as decimal.
fn without_zeros(text: &str) -> Option<Ipv4Addr> {
    let decimal = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        digits => digits.to_owned(),
    };
    text.split('.').map(decimal).collect::<Vec<_>>().join(".").parse().ok()
}

/// Whether an address may be that of one host on a network.
#[must_use]
pub fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

/// Whether a prefix is a single address: a `/32`.
#[must_use]
pub const fn is_single(cidr: Ipv4Net) -> bool {
    cidr.prefix_len() == 32
}

/// A prefix itself, then all wider ones.
pub fn supernets(cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
    std::iter::successors(Some(cidr.trunc()), Ipv4Net::supernet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    /// The left column is read, or refused, as Go reads it.
    #[test]
    fn text_is_read_as_go_reads_it() {
        for (text, prefix) in [
            ("10.77.2.0/26", Ok("10.77.2.0/26")),
            ("10.77.2.9/26", Ok("10.77.2.9/26")),
            ("10.77.2.0/026", Ok("10.77.2.0/26")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("fd00:0065::/122", Ok("fd00:65::/122")),
            ("010.077.002.000/26", Err("has leading zeros; write 10.77.2.0/26")),
            ("10.77.2.00/26", Err("has leading zeros; write 10.77.2.0/26")),
            ("10.77.2.0", Err("is no prefix")),
            (" 10.77.2.0/26", Err("is no prefix")),
            ("10.77.2.0/33", Err("is no prefix")),
            ("10.77.2.0/+6", Err("is no prefix")),
            ("10.77.2.0/", Err("is no prefix")),
            ("10.77.2/24", Err("is no prefix")),
            ("10..2.0/24", Err("is no prefix")),
            ("/24", Err("is no prefix")),
            ("", Err("is no prefix")),
        ] {
            let found = parse_prefix(text).map(|it| it.to_string()).map_err(|it| it.to_string());
            assert_eq!(found, prefix.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        for (text, address) in [
            ("10.99.1.2", Ok("10.99.1.2")),
            ("fd00::1", Ok("fd00::1")),
            ("010.99.1.2", Err("has leading zeros; write 10.99.1.2")),
            ("10.99.1.2/24", Err("has a prefix length; leave it out and write 10.99.1.2")),
            ("10.99.1.2/x", Err("is no address")),
            ("node1", Err("is no address")),
            ("", Err("is no address")),
        ] {
            let found = parse_address(text).map(|it| it.to_string()).map_err(|it| it.to_string());
            assert_eq!(found, address.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        for (text, either) in [
            ("10.99.2.2", Some("10.99.2.2/32")),
            (" 10.99.4.2/24 ", Some("10.99.4.2/24")),
            ("10.99.4.2\n", Some("10.99.4.2/32")),
            ("10.99.4.2/", None),
            ("010.99.4.2", None),
            ("autodetect", None),
        ] {
            let found = parse_prefix_or_address(text).ok().map(|net| net.to_string());
            assert_eq!(found.as_deref(), either, "{text}");
        }
    }

    #[test]
    fn what_no_host_has_is_told() {
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255"] {
            assert!(!is_host(address.parse().expect("an address")), "{address}");
        }
        assert!(is_host(Ipv4Addr::new(172, 16, 36, 10)));
    }

    #[test]
    fn only_a_32_is_a_single_address() {
        assert!(is_single(net("10.20.42.7/32")));
        assert!(!is_single(net("10.20.42.6/31")));
    }

    #[test]
    fn supernets_go_from_the_prefix_itself_to_everything() {
        let all: Vec<_> = supernets(net("10.20.42.7/30")).collect();
        assert_eq!(all.len(), 31);
        assert_eq!(all[..2], [net("10.20.42.4/30"), net("10.20.42.0/29")]);
        assert_eq!(all.last(), Some(&net("0.0.0.0/0")));
    }
}
