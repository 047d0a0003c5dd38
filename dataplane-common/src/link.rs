//! Whether what `decap_xdp` vouches for on a link arrives at `decap_tc`.
//!
//! A helper that makes room for XDP metadata shows that the driver has room, not that the metadata
//! reaches the skb: `mlx4` (since 6.3) has the room and loses what is there. A driver may also ignore
//! that the frame begins later (`mvpp2` did), and what stands between the two programs may change at
//! any time. So nothing is taken for granted:
//!
//! 1. **Testing**: `decap_xdp` marks packets and leaves them encapsulated, so that none can be lost.
//! 2. **Proven**, once `decap_tc` has seen a mark: `decap_xdp` decapsulates.
//! 3. **Given up**, if a packet arrives without its metadata, if none arrives at all, or if one is of a
//!    VLAN whose tag the NIC has taken out: all packets are left to `decap_tc`. The programs decide that by themselves, whether the daemon runs or not;
//!    it then takes `decap_xdp` off the link.
//!
//! Programs on several CPUs write an entry without a lock. Each field is one store, and a lost one is
//! made up for by the next packet.

use crate::{IfIndex, layout::plain};

/// Capacity of `LINKS`. The slot is the interface index modulo this number: of two links that would
/// share one, the second has no entry, and `decap_xdp` leaves its packets to `decap_tc`.
pub const LINK_SLOTS: usize = 256;

/// How long nothing may arrive before a link is given up, ns.
pub const PATIENCE: u64 = 500_000_000;
/// In how many ticks of the clock, at least, packets must have been vouched for in vain until then: a
/// few that are lost at the end of a burst prove nothing.
pub const TICKS: u32 = 8;

plain! {
    /// An entry of `LINKS`. Times are `CLOCK_MONOTONIC` (coarse), ns.
    pub struct LinkState {
        /// When `decap_xdp` vouched for the first packet that `decap_tc` has not answered.
        pub asked: u64,
        /// When `decap_xdp` vouched for a packet last.
        pub last: u64,
        /// When `decap_tc` last received a packet that was vouched for.
        pub seen: u64,
        /// The tick of the kernel's clock (`jiffies`) in which `decap_xdp` last asked what to do: the
        /// answer holds for the whole of it.
        pub tick: u64,
        /// The link; none in an unused slot.
        pub ifindex: IfIndex,
        /// [`LinkState::TESTING`], [`LinkState::PROVEN`], [`LinkState::LOST`],
        /// [`LinkState::SILENT`] or [`LinkState::TAGGED`].
        pub phase: u32,
        /// Ticks of the clock since `asked` in which packets were vouched for.
        pub ticks: u32,
        /// Keeps the size a multiple of 8.
        pub reserved: u32,
    }
}

/// What `decap_xdp` has to do with a packet that it has checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Mark it and leave it encapsulated.
    Mark,
    /// Decapsulate it and vouch for it.
    Decapsulate,
    /// Leave it as it is.
    Leave,
}

impl LinkState {
    /// No mark has arrived yet.
    pub const TESTING: u32 = 0;
    /// Marks arrive.
    pub const PROVEN: u32 = 1;
    /// A decapsulated packet arrived without its metadata.
    pub const LOST: u32 = 2;
    /// Nothing that was vouched for arrives.
    pub const SILENT: u32 = 3;
    /// What was vouched for is of a VLAN, and so another link's: the NIC takes the tag out of the
    /// frame, where `decap_xdp` cannot see it.
    pub const TAGGED: u32 = 4;

    /// Returns the entry of a link about which nothing is known.
    #[must_use]
    pub const fn new(ifindex: IfIndex) -> Self {
        let (phase, ticks) = (Self::TESTING, 0);
        Self { asked: 0, last: 0, seen: 0, tick: 0, ifindex, phase, ticks, reserved: 0 }
    }

    /// Returns the slot of a link in `LINKS`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(ifindex: IfIndex) -> u32 {
        ifindex.0 % LINK_SLOTS as u32
    }

    /// Returns whether the link was given up.
    #[inline(always)]
    #[must_use]
    pub const fn is_given_up(&self) -> bool {
        self.phase > Self::PROVEN
    }

    /// Returns what to do in this tick, if that was asked before.
    #[inline(always)]
    #[must_use]
    pub const fn duty_in(&self, tick: u64) -> Option<Duty> {
        if self.tick == tick { Some(self.duty()) } else { None }
    }

    /// Takes in that `decap_xdp` is about to vouch for a packet at `now`, the first one of this tick.
    /// Returns how. Once a tick, so that CPUs need not fight for the cache line, and the time is asked
    /// for as seldom.
    #[inline(always)]
    pub fn ask(&mut self, tick: u64, now: u64) -> Duty {
        self.tick = tick;
        if self.asked <= self.seen {
            // All was answered so far.
            (self.asked, self.last, self.ticks) = (now, now, 1);
        } else if self.last != now {
            self.last = now;
            self.ticks += 1;
            if self.ticks > TICKS && now > self.asked + PATIENCE {
                self.phase = Self::SILENT;
            }
        }
        self.duty()
    }

    #[inline(always)]
    const fn duty(&self) -> Duty {
        match self.phase {
            Self::TESTING => Duty::Mark,
            Self::PROVEN => Duty::Decapsulate,
            _ => Duty::Leave,
        }
    }

    /// Takes in that `decap_tc` received a packet at `now` that was vouched for.
    #[inline(always)]
    pub fn answer(&mut self, now: u64) {
        if self.seen != now {
            self.seen = now;
        }
        if self.phase == Self::TESTING {
            self.phase = Self::PROVEN;
        }
    }

    /// Takes in that a decapsulated packet arrived without its metadata.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.phase = Self::LOST;
    }

    /// Takes in that a packet of a VLAN was vouched for.
    #[inline(always)]
    pub const fn find_tagged(&mut self) {
        self.phase = Self::TAGGED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4_000_000;

    /// As `decap_xdp` asks, in a kernel with 250 ticks a second.
    fn ask(link: &mut LinkState, now: u64) -> Duty {
        let tick = now / TICK;
        link.duty_in(tick).unwrap_or_else(|| link.ask(tick, now))
    }

    fn proven() -> LinkState {
        let mut link = LinkState::new(IfIndex(2));
        assert_eq!(ask(&mut link, TICK), Duty::Mark);
        link.answer(TICK);
        link
    }

    #[test]
    fn a_link_is_tested_until_a_mark_arrives() {
        let mut link = LinkState::new(IfIndex(2));
        for _ in 0..100 {
            assert_eq!(ask(&mut link, TICK), Duty::Mark);
        }
        link.answer(TICK);
        assert_eq!(ask(&mut link, TICK), Duty::Decapsulate);
        assert_eq!((link.phase, link.is_given_up()), (LinkState::PROVEN, false));
    }

    /// Be it idle for hours, or be the other program some ticks behind.
    #[test]
    fn a_link_whose_packets_arrive_is_never_given_up() {
        for (pause, delay) in [(1, 0), (1, TICK), (TICK, 3 * TICK), (1 << 45, 0), (1 << 45, TICK)] {
            let (mut link, mut now) = (proven(), TICK);
            for _ in 0..1_000 {
                now += pause;
                assert_eq!(ask(&mut link, now), Duty::Decapsulate, "{pause} {delay}");
                link.answer(now + delay);
            }
        }
    }

    #[test]
    fn a_link_is_given_up_when_nothing_arrives() {
        // At full speed, and a packet a second: after how many ticks.
        for (step, ticks) in [(TICK, PATIENCE / TICK + 1), (1_000_000_000, u64::from(TICKS))] {
            for mut link in [proven(), LinkState::new(IfIndex(2))] {
                let begin = 1_000 * TICK;
                let duty =
                    if link.phase == LinkState::PROVEN { Duty::Decapsulate } else { Duty::Mark };
                for tick in 0..ticks {
                    for _ in 0..3 {
                        assert_eq!(ask(&mut link, begin + tick * step), duty, "{step} {tick}");
                    }
                }
                assert_eq!(ask(&mut link, begin + ticks * step), Duty::Leave, "{step}");
                assert_eq!((link.phase, link.is_given_up()), (LinkState::SILENT, true));
            }
        }
    }

    /// The end of a burst may be lost between the two, again and again.
    #[test]
    fn what_is_lost_now_and_then_proves_nothing() {
        let (mut link, mut now) = (proven(), TICK);
        for _ in 0..100 {
            for _ in 0..TICKS {
                now += TICK;
                assert_eq!(ask(&mut link, now), Duty::Decapsulate);
            }
            now += 1 << 40;
            link.answer(now);
        }
    }

    #[test]
    fn one_packet_without_metadata_gives_a_link_up() {
        let mut link = proven();
        link.lose();
        assert_eq!(ask(&mut link, 2 * TICK), Duty::Leave);
        link.answer(2 * TICK);
        assert_eq!(ask(&mut link, 2 * TICK), Duty::Leave);
        assert_eq!(link.phase, LinkState::LOST);
    }

    #[test]
    fn one_mark_on_a_packet_of_a_vlan_gives_a_link_up() {
        for mut link in [LinkState::new(IfIndex(2)), proven()] {
            link.find_tagged();
            assert_eq!(ask(&mut link, 2 * TICK), Duty::Leave);
            link.answer(2 * TICK);
            assert_eq!((link.phase, link.is_given_up()), (LinkState::TAGGED, true));
        }
    }

    #[test]
    fn links_close_to_each_other_have_slots_of_their_own() {
        assert_ne!(LinkState::slot(IfIndex(2)), LinkState::slot(IfIndex(3)));
        assert_eq!(LinkState::slot(IfIndex(2)), LinkState::slot(IfIndex(258)));
    }
}
