//! `ROUTES`: prefix → node.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use dataplane_common::Route;
use ipnet::Ipv4Net;

use super::{Keys, Outdated, Table, found};
use crate::{
    address::supernets,
    bpf::{
        Maps,
        maps::{gone_is_fine, insist},
    },
};

/// The `ROUTES` map.
pub struct Routes<'a>(pub &'a mut Maps, pub Keys<'a, Ipv4Net>);

/// Returns what leases may hold that a prefix's change from `old` to `new` makes untrue: a
/// new route does, too, where it takes addresses out of a wider one.
pub fn outdated(
    prefix: Ipv4Net,
    old: Option<&Route>,
    new: Option<&Route>,
    was_there: impl Fn(&Ipv4Net) -> bool,
) -> Option<Outdated> {
    let is_another = match (old, new) {
        // An address of ours is no remote end of a lease.
        (Some(old), _) if old.is_local() => false,
        (Some(old), Some(new)) => old.differs(new),
        (Some(_), None) => true,
        (None, Some(_)) => supernets(prefix).any(|net| was_there(&net)),
        (None, None) => false,
    };
    is_another.then_some(Outdated::Route(prefix))
}

impl Table for Routes<'_> {
    type Key = Ipv4Net;
    type Value = Route;
    const NAME: &'static str = "route";

    fn describe(&self, prefix: &Ipv4Net, new: Option<&Route>) -> String {
        match new {
            Some(route) => {
                format!("setting the route {prefix} to node {}", Ipv4Addr::from(route.node))
            }
            None => format!("removing the route {prefix}"),
        }
    }

    fn outdated(
        &self,
        actual: &BTreeMap<Ipv4Net, Route>,
        prefix: &Ipv4Net,
        new: Option<&Route>,
    ) -> Vec<Outdated> {
        let was_there = |net: &Ipv4Net| actual.contains_key(net);
        outdated(*prefix, actual.get(prefix), new, was_there).into_iter().collect()
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, Route>> {
        match self.1 {
            Keys::All => self.0.all_routes(),
            Keys::Only(prefixes) => found(prefixes, |prefix| self.0.routes.get(prefix)),
        }
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, route: &Route) -> Result<()> {
        Ok(insist(|| self.0.routes.insert(*prefix, *route, 0))?)
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        Ok(gone_is_fine(self.0.routes.remove(*prefix))?)
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::Ipv4Be;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a prefix")
    }

    #[test]
    fn only_what_packets_notice_outdates_leases() {
        let old = Route { node: Ipv4Be(1), since: 2, flags: 0, source: Route::SOURCE_FILE };
        let learnt_elsewhere = Route { since: 9, source: Route::SOURCE_ETCD, ..old };
        let moved = Route { node: Ipv4Be(2), ..old };
        let block = net("10.20.42.0/26");
        let pod = net("10.20.105.215/32");
        let local = Route { flags: Route::LOCAL, ..old };
        let known = BTreeMap::from([(block, old), (pod, local)]);
        let outdates = |prefix: Ipv4Net, new| {
            let outdated = outdated(prefix, known.get(&prefix), new, |net| known.contains_key(net));
            assert!(outdated.is_none_or(|it| it == Outdated::Route(prefix)));
            outdated.is_some()
        };
        assert!(!outdates(block, Some(&old)));
        assert!(!outdates(block, Some(&learnt_elsewhere)));
        assert!(outdates(block, Some(&moved)));
        assert!(outdates(block, None));
        assert!(outdates(net("10.20.42.7/32"), Some(&old)), "out of a wider one");
        assert!(!outdates(net("10.20.43.0/26"), Some(&old)), "nothing was leased there");
        assert!(!outdates(net("10.20.42.7/32"), None), "neither before nor after");
        assert!(outdates(net("10.20.42.7/32"), Some(&local)), "a pod of ours with a lent address");
        assert!(!outdates(pod, None), "no lease leads to a pod of ours by a route");
        assert!(!outdates(pod, Some(&moved)), "nor when it has moved away");
    }
}
