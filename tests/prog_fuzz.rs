//! Random frames: never a verdict, a byte or a count the model does not foresee.

use std::{
    collections::BTreeMap,
    env,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use dataplane_common::{Counter, Reason, Settings};
use tunless_tests::{
    case,
    case::announce,
    fuzz, hex,
    model::Model,
    netns::in_namespace,
    prog::{Context, Loaded, Program},
    world,
};

/// Frames for each program and each of its settings; fewer where a machine is
/// too slow for them.
const FRAMES: usize = 25_000;
const TIME: Duration = Duration::from_secs(3);
/// After so many all counters are compared, not only the one that should move.
const ROUND: usize = 500;

/// Four settings, in the order of the bits.
const SETTINGS: [(u8, u8); 4] = [
    (Settings::TRUSTED, Settings::SPOOF_DROP),
    (Settings::OFF, Settings::SPOOF_DROP),
    (Settings::TRUSTED, Settings::SPOOF_STACK),
    (Settings::OFF, Settings::SPOOF_STACK),
];

#[test]
fn encap_pod() {
    fuzz(Program::EncapPod, &SETTINGS[..2]);
}

#[test]
fn encap_host() {
    fuzz(Program::EncapHost, &SETTINGS[..2]);
}

#[test]
fn decap_tc() {
    fuzz(Program::DecapTc, &SETTINGS);
}

#[test]
fn decap_xdp() {
    fuzz(Program::DecapXdp, &SETTINGS);
}

/// `SEED=n` repeats a run.
fn seed() -> u64 {
    match env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => RandomState::new().hash_one("seed"),
    }
}

fn fuzz(program: Program, settings: &[(u8, u8)]) {
    let seed = seed();
    println!("fuzz {program}: SEED={seed}");
    let (mut frames, mut reasons) = (0usize, BTreeMap::<Reason, usize>::new());
    in_namespace(|_| {
        let mut random = fuzz::Random(seed);
        for (fastpath, spoof) in settings {
            let settings = world::settings(*fastpath, *spoof);
            let model = Model::new(settings, &world::entries());
            let mut loaded = Loaded::new(settings);
            let start = Instant::now();
            for _ in 0..FRAMES / ROUND {
                round(program, &model, &mut loaded, &mut random, &mut reasons);
                frames += ROUND;
                if start.elapsed() > TIME {
                    break;
                }
            }
        }
    });
    println!("fuzz {program}: {frames} frames: {reasons:?}");
    announce(&format!("fuzz {program}"), frames);
}

fn round(
    program: Program,
    model: &Model,
    loaded: &mut Loaded,
    random: &mut fuzz::Random,
    reasons: &mut BTreeMap<Reason, usize>,
) {
    let context = Context::new(program);
    let (mut counts, mut nodes) = (Vec::new(), Vec::new());
    let mut counters = BTreeMap::<Reason, Counter>::new();
    loaded.reset();
    for _ in 0..ROUND {
        let frame = fuzz::frame(random, program);
        let expected = model.predict(program, &frame);
        let ran = loaded.run(program, &frame, &context).expect("the kernel takes 34 bytes");
        let about = || {
            format!(
                "{program}, foreseen {:?}\nframe {}",
                expected.count,
                hex::difference(&frame, &[])
            )
        };
        assert_eq!(ran.action, expected.ran.action, "{}", about());
        assert_eq!(ran.metadata, expected.ran.metadata, "{}", about());
        assert!(
            ran.packet == expected.ran.packet,
            "{}\n{}",
            about(),
            hex::difference(&expected.ran.packet, &ran.packet)
        );
        if let Some((reason, bytes)) = expected.count {
            let counter = counters.entry(reason).or_default();
            counter.packets += 1;
            counter.bytes += bytes;
            assert_eq!(loaded.counter(reason), *counter, "{reason:?}\n{}", about());
            *reasons.entry(reason).or_default() += 1;
            counts.push((reason, bytes));
        }
        nodes.extend(expected.node);
    }
    let wrong = case::difference(&loaded.counters(), &counts, &nodes);
    assert!(wrong.is_empty(), "after {ROUND} frames:\n{wrong}");
}
