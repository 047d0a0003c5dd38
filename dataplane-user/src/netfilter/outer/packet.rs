//! Encapsulated packets between this host and its nodes, as far as they are known beforehand, and
//! how rules compare them.
//!
//! Known are the protocol, the node's address and the links; the answer to everything else is
//! [`None`]: some of these packets are so, maybe.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::ipv4::PROTOCOL_IPIP;

/// Which packets a hook sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Those that this host receives (`prerouting`, `input`).
    In,
    /// Those that it sends (`output`, `postrouting`).
    Out,
}

/// The packets that a hook would see if tunless did not take them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packets {
    /// Received or sent.
    pub direction: Direction,
    /// The nodes at the other end.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// The names of the links by which they come and go.
    pub links: BTreeSet<String>,
}

/// A byte of what a rule reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Byte {
    /// The IP protocol.
    Protocol,
    /// A byte of the node's address, by its place, and the bits of it that are read.
    Node(usize, u8),
    /// Another byte that is the same in all of these packets.
    Is(u8),
    /// It differs.
    Unknown,
}

/// What a rule reads into a register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Bytes of the header, or what is known about the packet.
    Bytes(Vec<Byte>),
    /// The name of the link.
    Link,
    /// A field that IPIP has not: ports.
    Absent,
}

impl Byte {
    /// Returns the byte in the packets of a node.
    #[must_use]
    pub fn of(self, node: Ipv4Addr) -> Option<u8> {
        match self {
            Self::Protocol => Some(PROTOCOL_IPIP),
            Self::Node(place, mask) => node.octets().get(place).map(|byte| byte & mask),
            Self::Is(byte) => Some(byte),
            Self::Unknown => None,
        }
    }

    /// Returns what the bits of `mask` are.
    #[must_use]
    pub fn masked(self, mask: u8) -> Self {
        match (self, mask) {
            (_, 0) => Self::Is(0),
            (Self::Node(place, before), _) => Self::Node(place, before & mask),
            (Self::Is(byte), _) => Self::Is(byte & mask),
            (Self::Protocol, u8::MAX) => Self::Protocol,
            (Self::Protocol, _) => Self::Is(PROTOCOL_IPIP & mask),
            (Self::Unknown, _) => Self::Unknown,
        }
    }

    /// Whether it tells these packets from others.
    #[must_use]
    pub fn names(self) -> bool {
        matches!(self, Self::Protocol | Self::Node(..))
    }
}

impl Direction {
    /// Returns bytes of the IPv4 header (RFC 791 §3.1).
    #[must_use]
    pub fn header(self, offset: usize, length: usize) -> Vec<Byte> {
        let address = match self {
            Self::In => 12,
            Self::Out => 16,
        };
        let byte = |at: usize| match at {
            0 => Byte::Is(0x45),
            9 => Byte::Protocol,
            _ => match at.checked_sub(address) {
                Some(place @ 0..4) => Byte::Node(place, u8::MAX),
                _ => Byte::Unknown,
            },
        };
        (offset..offset.saturating_add(length.min(64))).map(byte).collect()
    }
}

/// How `cmp` compares (`enum nft_cmp_ops`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Operation {
    /// Reads the kernel's number.
    #[must_use]
    pub const fn read(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Equal,
            1 => Self::NotEqual,
            2 => Self::Less,
            3 => Self::AtMost,
            4 => Self::Greater,
            5 => Self::AtLeast,
            _ => return None,
        })
    }

    /// Compares what is known with what a rule asks for.
    #[must_use]
    pub fn holds(self, found: &[Option<u8>], wanted: &[u8]) -> Option<bool> {
        match self {
            Self::Equal => equal(found, wanted),
            Self::NotEqual => equal(found, wanted).map(|is_equal| !is_equal),
            Self::Less | Self::AtMost | Self::Greater | Self::AtLeast => {
                let found: Vec<u8> = found.iter().copied().collect::<Option<_>>()?;
                let order = found.as_slice().cmp(wanted);
                Some(match self {
                    Self::Less => order.is_lt(),
                    Self::AtMost => order.is_le(),
                    Self::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
        }
    }
}

/// Whether bytes are equal, as far as they are known.
#[must_use]
pub fn equal(found: &[Option<u8>], wanted: &[u8]) -> Option<bool> {
    let differs = |(found, wanted): (&Option<u8>, &u8)| found.is_some_and(|it| it != *wanted);
    if found.iter().zip(wanted).any(differs) {
        return Some(false);
    }
    let is_known =
        found.len() >= wanted.len() && found.iter().take(wanted.len()).all(Option::is_some);
    is_known.then_some(true)
}

impl Packets {
    /// Whether the link's name begins with these bytes, for all packets or for none. The kernel
    /// compares names with the zeros behind them, a pattern without.
    #[must_use]
    pub fn on_link(&self, pattern: &[u8]) -> Option<bool> {
        /// `IFNAMSIZ`.
        const LENGTH: usize = 16;
        let is_it = |name: &String| {
            let mut padded = name.clone().into_bytes();
            padded.resize(LENGTH, 0);
            padded.starts_with(pattern)
        };
        match self.links.iter().filter(|name| is_it(name)).count() {
            0 => Some(false),
            count if count == self.links.len() => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_neither_so_nor_otherwise() {
        use Operation::{AtLeast, AtMost, Equal, Greater, Less, NotEqual};
        for (operation, found, wanted, expected) in [
            (Equal, &[Some(4)][..], &[4][..], Some(true)),
            (Equal, &[Some(4)], &[6], Some(false)),
            (NotEqual, &[Some(4)], &[6], Some(true)),
            (Equal, &[None], &[6], None),
            (NotEqual, &[None], &[6], None),
            // One byte that differs is enough.
            (Equal, &[None, Some(1)], &[6, 2], Some(false)),
            (NotEqual, &[None, Some(1)], &[6, 2], Some(true)),
            (Equal, &[None, Some(1)], &[6, 1], None),
            // Only what is compared has to be known.
            (Equal, &[Some(1), None], &[1], Some(true)),
            (Equal, &[Some(1)], &[1, 2], None),
            (Less, &[Some(1), Some(9)], &[2, 0], Some(true)),
            (AtMost, &[Some(2), Some(0)], &[2, 0], Some(true)),
            (Greater, &[Some(2), Some(0)], &[2, 0], Some(false)),
            (AtLeast, &[Some(2), Some(0)], &[2, 0], Some(true)),
            (AtLeast, &[Some(2), None], &[2, 0], None),
        ] {
            assert_eq!(
                operation.holds(found, wanted),
                expected,
                "{found:?} {operation:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn links_are_compared_by_name_or_by_its_beginning() {
        let of = |names: &[&str]| Packets {
            direction: Direction::In,
            nodes: BTreeSet::new(),
            links: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        for (names, pattern, expected) in [
            (&["eth0"][..], &b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"[..], Some(true)),
            (&["eth0"], b"eth0\0", Some(true)),
            (&["eth01"], b"eth0\0", Some(false)),
            (&["eth0", "eth1"], b"eth", Some(true)),
            (&["eth0", "bond0"], b"eth", None),
            (&["eth0"], b"cali", Some(false)),
        ] {
            assert_eq!(of(names).on_link(pattern), expected, "{names:?} {pattern:?}");
        }
    }
}
