//! What loading takes: rights. How much work it is for the verifier: [`super::prog_budget`].

use dataplane_common::Settings;
use tunless_tests::{
    capabilities::{BPF, NET_ADMIN, PERFMON, keep_only},
    prog::Loaded,
    world,
};

/// The service runs with these and no others.
#[test]
fn three_capabilities_are_enough() {
    let thread = std::thread::spawn(|| {
        keep_only(&[NET_ADMIN, PERFMON, BPF]);
        for fastpath in [Settings::OFF, Settings::TRUSTED, Settings::VERIFIED] {
            drop(Loaded::new(world::settings(fastpath, Settings::SPOOF_DROP)));
        }
    });
    thread.join().expect("the object loads without CAP_SYS_ADMIN");
}
