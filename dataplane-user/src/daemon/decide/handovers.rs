//! On which interfaces XDP cannot hand packets over.
//!
//! No driver tells. `decap_xdp` asks for room for metadata with every packet, before it touches it,
//! and counts the answer. A driver that never has room only has each packet looked at twice, so
//! `decap: auto` leaves such interfaces to TC.
//!
//! A driver that has the room may still lose what is written there. The programs notice by themselves
//! ([`dataplane_common::link`]), and stop; here XDP is taken off such a link, whatever the file says.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{IfIndex, LinkState, Mtu};
use serde::{Deserialize, Serialize};

use super::{Memory, link_key};
use crate::kernel::Host;

/// What `decap_xdp` has counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Packets under `xdp_unable`.
    pub unable: u64,
    /// Packets under `xdp_unwrapped`.
    pub unwrapped: u64,
}

/// The counters as they were seen last. They outlive the daemon: a new one starts from zero, so
/// it knows before it attaches anything, as attaching may reset a NIC.
#[derive(Default)]
pub struct Handovers {
    seen: Counted,
}

impl Handovers {
    /// Looks at the counters anew. Returns whether packets could not be handed over since the
    /// last time, and none was.
    ///
    /// The counters are those of all interfaces. Where some packets were unwrapped and others
    /// not, they do not show by which, and all is left as it is.
    pub fn look(&mut self, now: Counted) -> bool {
        let then = std::mem::replace(&mut self.seen, now);
        let is_moved = |now: u64, then: u64| now > if now < then { 0 } else { then };
        !is_moved(now.unwrapped, then.unwrapped) && is_moved(now.unable, then.unable)
    }
}

/// Remembers that drivers of their own among these interfaces have no room for metadata. The
/// memory ends with `tunless detach` or a reboot; `decap: xdp` in the file overrides it.
pub fn remember(memory: &mut Memory, host: &Host, underlay: &BTreeSet<IfIndex>) {
    let links = underlay.iter().filter_map(|ifindex| host.links.get(ifindex));
    // A veth, bond or VLAN gets no `decap_xdp` to begin with.
    for link in links.filter(|link| link.kind.is_none()) {
        let why = || "its driver has no XDP metadata".to_owned();
        memory.no_xdp.entry(link_key(link)).or_insert_with(why);
    }
}

/// What was seen of packets that XDP handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// They arrived without their metadata.
    Lost,
    /// None arrived, decapsulated or not.
    Silent,
    /// One was of a VLAN.
    Tagged,
}

impl Failure {
    /// Returns why the programs have given a link up, if they have.
    #[must_use]
    pub fn of(link: &LinkState) -> Option<Self> {
        match link.phase {
            LinkState::LOST => Some(Self::Lost),
            LinkState::SILENT => Some(Self::Silent),
            LinkState::TAGGED => Some(Self::Tagged),
            _ => None,
        }
    }

    /// For people, as in "on eth0 …".
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Lost => "packets arrive without the XDP metadata that decap_xdp gave them",
            Self::Silent => {
                "no packet arrives at decap_tc with the XDP metadata that decap_xdp gave it"
            }
            Self::Tagged => {
                "encapsulated packets of a VLAN arrive too, and the NIC takes out the tag by which \
                 decap_xdp would know them"
            }
        }
    }
}

/// Links that the programs have given up, and why. Only where `decap_tc` is attached: without it
/// nothing can arrive, whatever the driver does.
pub type GivenUp = BTreeMap<IfIndex, Failure>;

/// Remembers links that the programs have given up. The memory ends with `tunless detach` or a
/// reboot; a link with another name, MAC or driver is another one.
pub fn remember_given_up(memory: &mut Memory, host: &Host, given_up: &GivenUp) {
    for (ifindex, failure) in given_up {
        let Some(link) = host.links.get(ifindex) else { continue };
        memory.no_handover.entry(link_key(link)).or_insert(*failure);
    }
}

/// Interfaces whose driver refused `decap_xdp` when it was attached.
///
/// That is an observation, not history: a refused attachment changes nothing on a NIC, and its
/// cause may be gone (the MTU, another program), so a restart and a reload try again. So does a
/// link that is another one now, or has another MTU.
#[derive(Default)]
pub struct Refusals {
    links: BTreeMap<IfIndex, (String, Mtu)>,
}

impl Refusals {
    /// Takes in which interfaces refused it.
    pub fn add(&mut self, refused: &BTreeSet<IfIndex>, host: &Host) {
        let links = refused.iter().filter_map(|ifindex| Some((*ifindex, host.links.get(ifindex)?)));
        self.links.extend(links.map(|(ifindex, link)| (ifindex, (link_key(link), link.mtu))));
    }

    /// Returns the interfaces that still are as they were when they refused it.
    #[must_use]
    pub fn of(&self, host: &Host) -> BTreeSet<IfIndex> {
        let is_same = |ifindex: &IfIndex, refused: &(String, Mtu)| {
            host.links.get(ifindex).is_some_and(|link| (link_key(link), link.mtu) == *refused)
        };
        let same = self.links.iter().filter(|(ifindex, refused)| is_same(ifindex, refused));
        same.map(|(ifindex, _)| *ifindex).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Link;

    const NICS: [IfIndex; 2] = [IfIndex(2), IfIndex(3)];
    const BOND: IfIndex = IfIndex(4);
    const NONE: [IfIndex; 0] = [];

    fn host() -> Host {
        let link = |name: &str, kind: Option<&str>| Link {
            name: name.into(),
            alias: None,
            mac: dataplane_common::Mac([1, 2, 3]),
            mtu: Mtu(1500),
            is_up: true,
            does_arp: true,
            kind: kind.map(Into::into),
            ..Link::default()
        };
        let links = [
            (NICS[0], link("eth0", None)),
            (NICS[1], link("eth1", None)),
            (BOND, link("bond0", Some("bond"))),
        ];
        Host { links: links.into(), ..Host::default() }
    }

    #[derive(Default)]
    struct Counts {
        handovers: Handovers,
        memory: Memory,
    }

    /// The interfaces that are remembered from this look on.
    fn look(counts: &mut Counts, unable: u64, unwrapped: u64) -> Vec<IfIndex> {
        let host = host();
        let known = |memory: &Memory| -> BTreeSet<IfIndex> {
            let links = host.links.iter();
            let known = links.filter(|(_, link)| memory.no_xdp.contains_key(&link_key(link)));
            known.map(|(ifindex, _)| *ifindex).collect()
        };
        let before = known(&counts.memory);
        if counts.handovers.look(Counted { unable, unwrapped }) {
            remember(&mut counts.memory, &host, &[NICS[0], NICS[1], BOND].into());
        }
        (&known(&counts.memory) - &before).into_iter().collect()
    }

    #[test]
    fn a_driver_that_is_able_is_left_alone() {
        let mut handovers = Counts::default();
        for (unable, unwrapped) in [(0, 0), (0, 7), (0, 7), (3, 9), (3, 9), (3, 12)] {
            assert_eq!(look(&mut handovers, unable, unwrapped), NONE);
        }
    }

    #[test]
    fn one_that_is_not_is_known_once() {
        let mut handovers = Counts::default();
        assert_eq!(look(&mut handovers, 0, 5), NONE);
        assert_eq!(look(&mut handovers, 1, 5), NICS);
        assert_eq!(look(&mut handovers, 2, 5), NONE);
        assert_eq!(handovers.memory.no_xdp.len(), NICS.len());
    }

    #[test]
    fn what_an_earlier_daemon_counted_is_known_at_once() {
        assert_eq!(look(&mut Counts::default(), 9, 0), NICS);
    }

    #[test]
    fn flushed_counters_begin_anew() {
        let mut handovers = Counts::default();
        assert_eq!(look(&mut handovers, 8, 8), NONE);
        assert_eq!(look(&mut handovers, 0, 0), NONE);
        assert_eq!(look(&mut handovers, 3, 0), NICS);
    }

    #[test]
    fn what_the_programs_gave_up_is_known_for_that_link_alone() {
        let (mut memory, host) = (Memory::default(), host());
        let given_up = [(NICS[0], Failure::Lost), (IfIndex(9), Failure::Silent)].into();
        remember_given_up(&mut memory, &host, &given_up);
        let keys: Vec<_> = memory.no_handover.keys().collect();
        assert_eq!(keys, [&link_key(&host.links[&NICS[0]])]);
        // What was seen first stays.
        remember_given_up(&mut memory, &host, &[(NICS[0], Failure::Silent)].into());
        assert_eq!(memory.no_handover[&link_key(&host.links[&NICS[0]])], Failure::Lost);
        let changes: [fn(&mut Link); 4] = [
            |link| link.mac = dataplane_common::Mac([7, 7, 7]),
            |link| link.name = "eth7".into(),
            |link| link.driver = Some("mlx4_core 4.9".into()),
            |link| link.kind = Some("veth".into()),
        ];
        for change in changes {
            let mut link = host.links[&NICS[0]].clone();
            change(&mut link);
            assert!(!memory.no_handover.contains_key(&link_key(&link)), "{link:?}");
        }
    }

    #[test]
    fn only_what_was_given_up_is_a_failure() {
        for (phase, failure) in [
            (LinkState::TESTING, None),
            (LinkState::PROVEN, None),
            (LinkState::LOST, Some(Failure::Lost)),
            (LinkState::SILENT, Some(Failure::Silent)),
            (LinkState::TAGGED, Some(Failure::Tagged)),
        ] {
            let link = LinkState { phase, ..LinkState::new(NICS[0]) };
            assert_eq!(Failure::of(&link), failure);
            assert_eq!(link.is_given_up(), failure.is_some());
        }
    }

    /// A card that was replaced may have the index of the old one.
    #[test]
    fn a_refusal_is_that_of_a_link_as_it_was() {
        let mut refusals = Refusals::default();
        refusals.add(&[NICS[0], IfIndex(9)].into(), &host());
        assert_eq!(refusals.of(&host()), [NICS[0]].into());
        let changes: [fn(&mut Link); 3] = [
            |link| link.mtu = Mtu(1400),
            |link| link.mac = dataplane_common::Mac([7, 7, 7]),
            |link| link.name = "eth7".into(),
        ];
        for change in changes {
            let mut host = host();
            change(host.links.get_mut(&NICS[0]).unwrap());
            assert_eq!(refusals.of(&host), BTreeSet::new());
        }
        assert_eq!(refusals.of(&Host::default()), BTreeSet::new());
    }
}
