//! Addresses as they lie in packets and maps.

use core::{fmt, net::Ipv4Addr};

/// An IPv4 address in **network byte order**, as it lies in a packet.
///
/// Programs compare and look up addresses without ever swapping them; user
/// space converts at its edge with [`From`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Ipv4Be(pub u32);

impl Ipv4Be {
    /// 0.0.0.0, which is no host's address.
    pub const UNSPECIFIED: Self = Self(0);

    /// The first octet, the one classes of addresses are told by.
    #[inline(always)]
    #[must_use]
    pub const fn first_octet(self) -> u8 {
        self.0.to_ne_bytes()[0]
    }
}

impl From<Ipv4Addr> for Ipv4Be {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv4Be> for Ipv4Addr {
    fn from(address: Ipv4Be) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl fmt::Debug for Ipv4Be {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

/// An Ethernet address as three 16-bit halves, each as it lies in memory.
///
/// Halves, because a six-byte copy out of a map becomes a call of `memmove`
/// on eBPF, and the call costs more than everything around it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Mac(pub [u16; 3]);

impl Mac {
    /// Whether this is an address at all; all zero means "not known (yet)".
    #[inline(always)]
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] != 0
    }

    /// Whether it is the same address: half by half, where `==` would call `bcmp`.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, other: Self) -> bool {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]) | (self.0[2] ^ other.0[2]) == 0
    }
}

impl From<[u8; 6]> for Mac {
    fn from(octets: [u8; 6]) -> Self {
        let half = |i: usize| u16::from_ne_bytes([octets[i], octets[i + 1]]);
        Self([half(0), half(2), half(4)])
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        let [a, b, c] = mac.0.map(u16::to_ne_bytes);
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = <[u8; 6]>::from(*self);
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn addresses_keep_network_order() {
        let address = Ipv4Be::from(Ipv4Addr::new(10, 20, 42, 31));
        assert_eq!(address.0.to_ne_bytes(), [10, 20, 42, 31]);
        assert_eq!(address.first_octet(), 10);
        assert_eq!(Ipv4Addr::from(address), Ipv4Addr::new(10, 20, 42, 31));
    }

    #[test]
    fn macs_survive_the_round_trip() {
        let octets = [0x02, 0x42, 0xac, 0x10, 0x24, 0x0a];
        let mac = Mac::from(octets);
        assert_eq!(<[u8; 6]>::from(mac), octets);
        assert_eq!(mac.to_string(), "02:42:ac:10:24:0a");
        assert!(mac.is_known() && !Mac::default().is_known());
        for at in 0..6 {
            let mut other = octets;
            other[at] ^= 1;
            assert!(mac.is(octets.into()) && !mac.is(other.into()));
        }
    }
}
