//! Facts about addresses and prefixes that more than one module asks for.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

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
