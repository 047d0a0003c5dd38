//! What loading takes: work for the verifier, and rights.

use dataplane_common::Settings;
use tunless_tests::{
    capabilities::{BPF, NET_ADMIN, PERFMON, keep_only},
    prog::{Loaded, Program},
    world,
};

/// Programs in the order of [`Program::ALL`].
type Ceilings = [u32; 5];

/// Instructions verified on kernel 6.18, and a quarter more, by mode. A sudden
/// rise means that a copy became a call or a loop was unrolled, and older
/// kernels verify worse.
const CEILINGS: [(u8, u8, Ceilings); 6] = [
    (Settings::TRUSTED, Settings::SPOOF_STACK, [1538, 1291, 3268, 1076, 871]),
    (Settings::TRUSTED, Settings::SPOOF_DROP, [1538, 1291, 2462, 1051, 871]),
    (Settings::OFF, Settings::SPOOF_STACK, [1538, 1291, 2705, 1076, 871]),
    (Settings::OFF, Settings::SPOOF_DROP, [1538, 1291, 1898, 1051, 871]),
    (Settings::VERIFIED, Settings::SPOOF_STACK, [1577, 4766, 19017, 1076, 871]),
    (Settings::VERIFIED, Settings::SPOOF_DROP, [1577, 4766, 16996, 1051, 871]),
];

#[test]
fn the_verifier_has_little_to_do() {
    let mut grown = Vec::new();
    for (fastpath, spoof, ceilings) in CEILINGS {
        let mut loaded = Loaded::new(world::settings(fastpath, spoof));
        for (program, ceiling) in Program::ALL.into_iter().zip(ceilings) {
            let Some(verified) = loaded.verified_instructions(program) else { continue };
            let what = format!(
                "{program}, fast path {fastpath}, spoof {spoof}: {verified} of {ceiling} instructions"
            );
            println!("load: {what}");
            if verified > ceiling {
                grown.push(what);
            }
        }
    }
    assert!(grown.is_empty(), "too many verified instructions:\n{}", grown.join("\n"));
}

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
