//! With tunl0 or without: what `mode: auto` comes to.
//!
//! On a rebooted node tunless, Felix and BIRD start in any order. `auto` becomes `accelerate`
//! as soon as tunl0 carries the routes to every encapsulated pod CIDR that is known; the
//! decision is one-way and outlives the daemon, so it does not depend on who came first.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    config::Mode,
    desired::{ChosenRoutes, TunnelMode},
    kernel::Host,
};

/// Why it is that mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ground {
    /// `mode` in the file.
    Configured,
    /// `mode: shadow` in the file.
    Shadow,
    /// `tunless try`.
    Tried,
    /// `auto`: tunl0 carries the routes to pods.
    Tunl0Routes,
    /// `auto`: tunl0 carried them before, and that decision stays.
    Remembered,
    /// `auto`: tunl0 does not carry the routes to pods.
    NoTunl0Routes,
}

impl Ground {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "as the file says",
            Self::Shadow => "shadow: tunl0 carries every packet, tunless only looks",
            Self::Tried => "tunless try",
            Self::Tunl0Routes => "auto: tunl0 carries the routes to pods",
            Self::Remembered => "auto: tunl0 carried the routes to pods before",
            Self::NoTunl0Routes => "auto: tunl0 does not carry the routes to pods",
        }
    }
}

/// The mode and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub struct ChosenMode {
    /// The mode.
    pub mode: TunnelMode,
    /// Why it is this one.
    pub ground: Ground,
}

/// Decides the mode. `active`: the one decided before; `routes`: what the sources agreed on;
/// `is_tried`: by `tunless try`.
#[must_use]
pub fn mode(
    configured: Mode,
    host: &Host,
    routes: &ChosenRoutes,
    active: Option<ChosenMode>,
    is_tried: bool,
) -> ChosenMode {
    let (mode, ground) = match configured {
        // Where there is no tunl0 there would be nothing to go back to.
        _ if is_tried => (TunnelMode::Accelerate, Ground::Tried),
        Mode::Accelerate => (TunnelMode::Accelerate, Ground::Configured),
        Mode::Shadow => (TunnelMode::Accelerate, Ground::Shadow),
        Mode::Replace => (TunnelMode::Replace, Ground::Configured),
        Mode::Auto => {
            // A file that says `accelerate` or `shadow`, and a try, leave no decision of `auto` behind.
            let was_chosen = active.is_some_and(|active| {
                active.mode == TunnelMode::Accelerate
                    && !matches!(active.ground, Ground::Configured | Ground::Shadow | Ground::Tried)
            });
            if covers(&host.tunl0_routes(), routes) {
                (TunnelMode::Accelerate, Ground::Tunl0Routes)
            } else if was_chosen {
                (TunnelMode::Accelerate, Ground::Remembered)
            } else {
                (TunnelMode::Replace, Ground::NoTunl0Routes)
            }
        }
    };
    ChosenMode { mode, ground }
}

/// Whether tunl0 carries routes, and those to every encapsulated prefix among them.
fn covers(tunl0: &BTreeMap<Ipv4Net, Ipv4Addr>, routes: &ChosenRoutes) -> bool {
    let mut encapsulated = routes.iter().filter(|(_, route)| !route.is_direct);
    !tunl0.is_empty() && encapsulated.all(|(cidr, _)| tunl0.contains_key(cidr))
}

#[cfg(test)]
mod tests {
    use dataplane_common::{IfIndex, Mtu};

    use super::*;
    use crate::{
        kernel::{KernelRoute, Link, TUNL0},
        sources::{SourceKind, table::ChosenRoute},
    };

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 16, 35, 4);

    fn host(prefixes: &[&str]) -> Host {
        let link = Link {
            name: TUNL0.into(),
            alias: None,
            mac: dataplane_common::Mac::default(),
            mtu: Mtu(1480),
            is_up: true,
            does_arp: false,
            kind: None,
            ..Link::default()
        };
        let route = |cidr: &&str| KernelRoute {
            destination: cidr.parse().unwrap(),
            ifindex: Some(IfIndex(7)),
            gateway: Some(NODE),
            protocol: 80,
            ..KernelRoute::default()
        };
        Host {
            links: [(IfIndex(7), link)].into(),
            routes: prefixes.iter().map(route).collect(),
            ..Host::default()
        }
    }

    fn chosen(prefixes: &[&str]) -> ChosenRoutes {
        let route =
            ChosenRoute { node: NODE, is_direct: false, source: SourceKind::File, since: 0 };
        prefixes.iter().map(|cidr| (cidr.parse().unwrap(), route)).collect()
    }

    const A: &str = "10.20.42.0/26";
    const B: &str = "10.20.43.0/26";

    /// Felix's routes come one by one, before or after ours, with a restart at any place: the
    /// end is the same.
    #[test]
    fn auto_does_not_depend_on_who_came_first() {
        let orders: [&[(&[&str], &[&str])]; 4] = [
            &[(&[], &[]), (&[], &[A]), (&[], &[A, B]), (&[A], &[A, B]), (&[A, B], &[A, B])],
            &[(&[A], &[]), (&[A, B], &[]), (&[A, B], &[A]), (&[A, B], &[A, B])],
            &[(&[A, B], &[A, B])],
            &[(&[], &[A, B]), (&[B], &[A, B]), (&[], &[A, B]), (&[A, B], &[A, B])],
        ];
        for order in orders {
            let mut active = None;
            for (tunl0, routes) in order {
                let found = mode(Mode::Auto, &host(tunl0), &chosen(routes), active, false);
                let again = mode(Mode::Auto, &host(tunl0), &chosen(routes), Some(found), false);
                assert_eq!(again.mode, found.mode, "{tunl0:?} {routes:?}");
                active = Some(found);
            }
            assert_eq!(active.unwrap().mode, TunnelMode::Accelerate, "{order:?}");
            // One-way: tunl0 may go and come.
            let later = mode(Mode::Auto, &host(&[]), &chosen(&[A, B]), active, false);
            assert_eq!((later.mode, later.ground), (TunnelMode::Accelerate, Ground::Remembered));
        }
    }

    #[test]
    fn half_of_the_routes_is_not_enough_and_the_file_is_obeyed() {
        let half = mode(Mode::Auto, &host(&[A]), &chosen(&[A, B]), None, false);
        assert_eq!((half.mode, half.ground), (TunnelMode::Replace, Ground::NoTunl0Routes));
        for (configured, expected) in
            [(Mode::Replace, TunnelMode::Replace), (Mode::Accelerate, TunnelMode::Accelerate)]
        {
            let found = mode(configured, &host(&[A, B]), &chosen(&[A]), None, false);
            assert_eq!((found.mode, found.ground), (expected, Ground::Configured));
            // A try does not ask, and leaves nothing behind.
            let tried = mode(configured, &host(&[]), &chosen(&[A]), Some(found), true);
            assert_eq!((tried.mode, tried.ground), (TunnelMode::Accelerate, Ground::Tried));
            let auto = mode(Mode::Auto, &host(&[]), &chosen(&[A]), Some(tried), false);
            assert_eq!(auto.mode, TunnelMode::Replace);
            // Back to `auto` without tunl0: decided anew.
            let auto = mode(Mode::Auto, &host(&[]), &chosen(&[A]), Some(found), false);
            assert_eq!(auto.mode, TunnelMode::Replace);
        }
    }
}
