//! A kernel that never stops talking.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::Scene;

/// Runs a test while node2's kernel announces something every 10 ms or so.
pub fn while_the_kernel_is_busy(scene: &Scene, test: impl FnOnce()) {
    let (stop, netns) = (AtomicBool::new(false), &scene.lab.node2.netns);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for verb in ["add", "del"] {
                    let neighbour = "172.16.36.99 lladdr 02:00:00:00:00:99 dev eth0";
                    netns.ip(&format!("neigh {verb} {neighbour}")).unwrap();
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        let result = catch_unwind(AssertUnwindSafe(test));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}
