//! The keys that Calico keeps in etcd, as far as routes follow from them:
//! `libcalico-go/lib/backend/model`.

/// What the keys of a range are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// IPAM blocks.
    Block,
    /// Nodes.
    Node,
    /// IP pools.
    Pool,
    /// Block affinities: whose the blocks are, or what blocks are checked against.
    Affinity,
}

impl Kind {
    /// In the order in which they are listed: nodes show how large the cluster is, and with that
    /// what affinities and blocks are for.
    const ALL: [Self; 4] = [Self::Node, Self::Pool, Self::Affinity, Self::Block];

    /// Below the prefix.
    const fn path(self) -> &'static str {
        match self {
            Self::Block => "/ipam/v2/assignment/ipv4/block/",
            Self::Node => "/resources/v3/projectcalico.org/nodes/",
            Self::Pool => "/resources/v3/projectcalico.org/ippools/",
            // Affinity::from_etcd wants the rest of the key with `host/` before it.
            Self::Affinity => "/ipam/v2/host/",
        }
    }
}

/// All keys that begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// What they are.
    pub kind: Kind,
    /// What they begin with; ends in a slash.
    pub start: String,
}

impl Range {
    /// Those to be listed and watched; `prefix` is Calico's, mostly `/calico`.
    pub fn all(prefix: &str) -> Vec<Self> {
        Kind::ALL.map(|kind| Self { kind, start: format!("{prefix}{}", kind.path()) }).into()
    }

    /// The first key behind the range.
    pub fn end(&self) -> Vec<u8> {
        let mut end = self.start.clone().into_bytes();
        // From `/` to `0`, its successor.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    /// Whether routes can do without, where blocks say whose they are.
    pub fn is_optional(&self) -> bool {
        self.kind == Kind::Affinity
    }
}

/// What a key is about.
#[derive(PartialEq, Eq, Debug)]
pub enum Key<'a> {
    /// A block, as `10.65.1.0-26`.
    Block(&'a str),
    /// A node, by name.
    Node(&'a str),
    /// A pool.
    Pool,
    /// An affinity: what `Affinity::from_etcd` takes.
    Affinity(&'a str),
    /// Nothing we know.
    Foreign,
}

impl<'a> Key<'a> {
    /// Reads a key below `prefix`.
    pub fn parse(prefix: &str, key: &'a str) -> Self {
        let Some(below) = key.strip_prefix(prefix) else { return Self::Foreign };
        for kind in Kind::ALL {
            let Some(rest) = below.strip_prefix(kind.path()) else { continue };
            return match kind {
                Kind::Affinity => below
                    .strip_prefix("/ipam/v2/")
                    .filter(|_| !rest.is_empty())
                    .map_or(Self::Foreign, Self::Affinity),
                _ if rest.is_empty() || rest.contains('/') => Self::Foreign,
                Kind::Block => Self::Block(rest),
                Kind::Node => Self::Node(rest),
                Kind::Pool => Self::Pool,
            };
        }
        Self::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_where_they_are() {
        for (key, what) in [
            ("/calico/ipam/v2/assignment/ipv4/block/10.65.1.0-26", Key::Block("10.65.1.0-26")),
            ("/calico/resources/v3/projectcalico.org/nodes/node-b.x", Key::Node("node-b.x")),
            ("/calico/resources/v3/projectcalico.org/ippools/default", Key::Pool),
            (
                "/calico/ipam/v2/host/b/ipv4/block/10.65.1.0-26",
                Key::Affinity("host/b/ipv4/block/10.65.1.0-26"),
            ),
            ("/calico/resources/v3/projectcalico.org/nodes/", Key::Foreign),
            ("/calico/resources/v3/projectcalico.org/nodes/a/b", Key::Foreign),
            ("/calico/resources/v3/projectcalico.org/ippools/a/b", Key::Foreign),
            ("/calico/ipam/v2/assignment/ipv6/block/fd00::-122", Key::Foreign),
            ("/calico/ipam/v2/host/", Key::Foreign),
            ("/other/ipam/v2/assignment/ipv4/block/10.65.1.0-26", Key::Foreign),
        ] {
            assert_eq!(Key::parse("/calico", key), what, "{key}");
        }
    }

    #[test]
    fn ranges_end_behind_their_last_key() {
        for range in Range::all("/calico") {
            assert!(format!("{}\u{10ffff}", range.start).into_bytes() < range.end());
            assert!(range.end() <= format!("{}0", range.start.trim_end_matches('/')).into_bytes());
            assert_eq!(range.is_optional(), range.start == "/calico/ipam/v2/host/");
        }
    }
}
