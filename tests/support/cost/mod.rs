//! What each program takes for one packet by itself, by `BPF_PROG_TEST_RUN`.
//!
//! One run at a time: a second one on the same packet would see what the first has left.

mod maps;
mod scenes;

use dataplane_common::{Reason, Settings};
use tunless_vm::figures::TestRun;

use self::{maps::Filled, scenes::Scene};
use super::{
    idle::Idle,
    netns,
    prog::Loaded,
    world::{self, Entry},
};

/// The modes, as the configuration calls them.
const FASTPATHS: [(&str, u8); 3] =
    [("off", Settings::OFF), ("verified", Settings::VERIFIED), ("trusted", Settings::TRUSTED)];
/// Lengths of the pod's frame.
const BYTES: [u32; 2] = [64, 1400];

/// Each program with each of its packets, `runs` times. Needs root.
///
/// # Panics
/// If a packet comes to something else than it is there for.
#[must_use]
pub fn measure(runs: usize) -> Vec<TestRun> {
    // Devices that packets can be redirected to.
    netns::in_namespace(|_| measure_here(runs))
}

fn measure_here(runs: usize) -> Vec<TestRun> {
    let (idle, mut figures) = (Idle::load(), Vec::new());
    for (name, fastpath) in FASTPATHS {
        let settings = world::settings(fastpath, Settings::SPOOF_DROP);
        for filled in Filled::all(fastpath) {
            let mut loaded = Loaded::with(settings, &maps::entries());
            filled.fill(&mut loaded);
            for scene in scenes::all().iter().filter(|scene| scene.fastpath == fastpath) {
                for bytes in BYTES {
                    let nanoseconds = scene.measure(&mut loaded, &idle, bytes, runs);
                    figures.push(TestRun {
                        program: scene.program.to_string(),
                        fastpath: name.into(),
                        outcome: scene.outcome().into(),
                        hit: scene.hit,
                        bytes,
                        routes: filled.routes,
                        leases_full: filled.leases_full,
                        nanoseconds,
                    });
                }
            }
        }
    }
    figures
}

impl Scene {
    /// The median of `runs`, nanoseconds, if each of them came to what the scene says.
    fn measure(&self, loaded: &mut Loaded, idle: &Idle, bytes: u32, runs: usize) -> f64 {
        let (packet, context) = (self.frame(bytes), self.context());
        let (flow, lease) = self.lease();
        let lease = Entry::Lease(flow, lease);
        let (mut ours, mut nothing) = (Vec::new(), Vec::new());
        loaded.reset();
        for _ in 0..runs {
            // What the last run was granted, this one asks for.
            loaded.remove(&lease);
            if self.leased {
                loaded.add(&lease);
            }
            ours.push(loaded.time(self.program, &packet, &context).as_nanos());
            nothing.push(idle.time(self.program, &packet, &context).as_nanos());
        }
        self.check(loaded, runs as u64);
        median(ours) - median(nothing)
    }

    /// Counted under the reason, and under no other.
    fn check(&self, loaded: &Loaded, runs: u64) {
        let counted: Vec<(Reason, u64)> = loaded
            .counters()
            .reasons
            .into_iter()
            .map(|(reason, of)| (reason, of.packets))
            .collect();
        let expected: Vec<(Reason, u64)> =
            self.reason.map(|reason| (reason, runs)).into_iter().collect();
        assert_eq!(counted, expected, "{self:?}");
    }
}

fn median(mut values: Vec<u128>) -> f64 {
    values.sort_unstable();
    let middle = values.len() / 2;
    // Nanoseconds of one run: far below what a float tells apart.
    if values.len().is_multiple_of(2) {
        (values[middle - 1] + values[middle]) as f64 / 2.0
    } else {
        values[middle] as f64
    }
}
