//! How much work the programs are for the verifier: a sudden rise means that a
//! loop was unrolled or a copy became a call, and older kernels verify worse.

use dataplane_common::Settings;
use tunless_tests::{
    prog::{Loaded, Program},
    world,
};

/// Instructions verified on kernel 6.18, and a quarter more.
const CEILINGS: [(Program, u32); 4] = [
    (Program::EncapPod, 1550),
    (Program::EncapHost, 1000),
    (Program::DecapTc, 3130),
    (Program::DecapXdp, 925),
];

#[test]
fn the_verifier_has_little_to_do() {
    for (fastpath, spoof) in
        [(Settings::TRUSTED, Settings::SPOOF_STACK), (Settings::OFF, Settings::SPOOF_DROP)]
    {
        let mut loaded = Loaded::new(world::settings(fastpath, spoof));
        for (program, ceiling) in CEILINGS {
            let Some(verified) = loaded.verified_instructions(program) else { continue };
            println!("budget: {program}: {verified} of {ceiling} instructions");
            assert!(verified <= ceiling, "{program} grew to {verified} verified instructions");
        }
    }
}
