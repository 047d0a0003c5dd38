//! What is loaded, and the rights it takes. How much work it is for the verifier: [`super::prog_budget`].

use std::collections::BTreeSet;

use aya::Ebpf;
use dataplane_common::{Program, Settings};
use dataplane_user::object::DATAPLANE;
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

#[test]
fn the_object_holds_the_programs_and_no_others() {
    let ebpf = Ebpf::load(DATAPLANE).expect("the object can be parsed");
    let found: BTreeSet<&str> = ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(found, Program::ALL.map(Program::as_str).into());
}
