//! The source check: may this node speak for that inner source?
//!
//! tunl0 takes a packet from any outer source, and Calico's rules only ask
//! whether that source is *a* node (CVE-2020-10136 is this class of hole).
//! We also tie the inner source to the node that sent it.

use crate::{Ipv4Be, Route};

/// What the source check says of an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The sending node may use this source.
    Belongs,
    /// No route covers it: perhaps our routes are late. Not a proven lie.
    Unknown,
    /// It belongs to another node.
    OtherNode,
    /// It is one of our own addresses: our node's, our tunnel's, a local pod's.
    Ours,
    /// No host may use it: 0/8, 127/8, 224/3 (RFC 1812 §5.3.7).
    Martian,
}

/// Judges `inner_source`, arrived from `outer_source`; `owner` is the longest
/// route that covers `inner_source`.
///
/// A node's own address is always its own: that is host traffic of a node
/// without a tunnel address.
#[inline(always)]
#[must_use]
pub fn judge(outer_source: Ipv4Be, inner_source: Ipv4Be, owner: Option<Route>) -> Source {
    match inner_source.first_octet() {
        0 | 127 | 224..=255 => return Source::Martian,
        _ => {}
    }
    match owner {
        Some(route) if route.is_local() => Source::Ours,
        _ if inner_source == outer_source => Source::Belongs,
        Some(route) if route.node == outer_source => Source::Belongs,
        Some(_) => Source::OtherNode,
        None => Source::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn ip(a: u8, b: u8, c: u8, d: u8) -> Ipv4Be {
        Ipv4Addr::new(a, b, c, d).into()
    }

    #[test]
    fn each_answer() {
        let node = ip(172, 16, 35, 4);
        let other = ip(172, 16, 34, 7);
        let pod = ip(10, 20, 42, 31);
        let route = |node, flags| Some(Route { node, since: 0, flags, source: 0 });
        let cases = [
            (pod, route(node, 0), Source::Belongs),
            (pod, route(node, Route::SOURCE_ONLY), Source::Belongs),
            (pod, route(other, 0), Source::OtherNode),
            (pod, route(node, Route::LOCAL), Source::Ours),
            (pod, None, Source::Unknown),
            (node, None, Source::Belongs),
            (node, route(node, Route::LOCAL), Source::Ours),
            (ip(0, 1, 2, 3), route(node, 0), Source::Martian),
            (ip(127, 0, 0, 1), route(node, 0), Source::Martian),
            (ip(224, 0, 0, 5), route(node, 0), Source::Martian),
            (ip(255, 255, 255, 255), route(node, 0), Source::Martian),
            (ip(223, 255, 255, 255), route(node, 0), Source::Belongs),
        ];
        for (source, owner, expected) in cases {
            assert_eq!(judge(node, source, owner), expected, "{source:?} {owner:?}");
        }
    }
}
