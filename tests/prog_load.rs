//! What loading takes: work for the verifier, and rights.

use dataplane_common::Settings;
use tunless_tests::{
    capabilities::{BPF, NET_ADMIN, PERFMON, keep_only},
    prog::{Loaded, Program},
    world,
};

/// Instructions verified on kernel 6.18, and a quarter more. A sudden rise
/// means that a copy became a call or a loop was unrolled, and older kernels
/// verify worse.
const CEILINGS: [(Program, u32); 5] = [
    (Program::EncapPod, 1550),
    (Program::EncapHost, 1000),
    (Program::DecapTc, 3130),
    (Program::DecapXdp, 925),
    (Program::GrantDecap, 1000),
];

#[test]
fn the_verifier_has_little_to_do() {
    for (fastpath, spoof) in [
        (Settings::TRUSTED, Settings::SPOOF_STACK),
        (Settings::OFF, Settings::SPOOF_DROP),
        (Settings::VERIFIED, Settings::SPOOF_STACK),
    ] {
        let mut loaded = Loaded::new(world::settings(fastpath, spoof));
        for (program, ceiling) in CEILINGS {
            let Some(verified) = loaded.verified_instructions(program) else { continue };
            println!("load: {program}: {verified} of {ceiling} instructions");
            assert!(verified <= ceiling, "{program} grew to {verified} verified instructions");
        }
    }
}

/// The service runs with these and no others.
#[test]
fn three_capabilities_are_enough() {
    let settings = world::settings(Settings::TRUSTED, Settings::SPOOF_DROP);
    let thread = std::thread::spawn(move || {
        keep_only(&[NET_ADMIN, PERFMON, BPF]);
        drop(Loaded::new(settings));
    });
    thread.join().expect("the object loads without CAP_SYS_ADMIN");
}
