//! Random frames: never a verdict, a byte, a count or a lease the model does not
//! foresee.

use std::{
    collections::BTreeMap,
    env,
    hash::{BuildHasher as _, RandomState},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dataplane_common::{Counter, Direction, Flow, Lease, Reason, Settings};
use tunless_tests::{
    case,
    case::announce,
    fuzz, hex,
    model::Model,
    netns::in_namespace,
    prog::{Context, Loaded, Program},
    signed::now,
    world::{self, Entry, LATER, REVOKED},
};

/// Frames for each program and each of its settings; fewer where a machine is
/// too slow for them.
const FRAMES: usize = 25_000;
const TIME: Duration = Duration::from_secs(3);
/// After so many all counters are compared, not only the one that should move.
const ROUND: usize = 500;

/// How often leases are dealt anew.
const DEAL: usize = 25;
/// Longer than a test may take, ns: no lease ends meanwhile that is not meant to.
const LEASE: u64 = 24 * 3600 * 1_000_000_000;

/// The modes of the fast path, what becomes of spoofs, and whether flows to Services are leased.
const SETTINGS: [(u8, u8, bool); 7] = [
    (Settings::TRUSTED, Settings::SPOOF_DROP, false),
    (Settings::OFF, Settings::SPOOF_DROP, false),
    (Settings::VERIFIED, Settings::SPOOF_DROP, false),
    (Settings::VERIFIED, Settings::SPOOF_DROP, true),
    (Settings::VERIFIED, Settings::SPOOF_STACK, false),
    (Settings::TRUSTED, Settings::SPOOF_STACK, false),
    (Settings::OFF, Settings::SPOOF_STACK, false),
];

#[test]
fn encap_pod() {
    fuzz(Program::EncapPod, &SETTINGS[..4]);
}

#[test]
fn encap_host() {
    fuzz(Program::EncapHost, &SETTINGS[..4]);
}

#[test]
fn decap_tc() {
    fuzz(Program::DecapTc, &SETTINGS);
}

#[test]
fn decap_xdp() {
    fuzz(Program::DecapXdp, &SETTINGS);
}

#[test]
fn grant_decap() {
    fuzz(Program::GrantDecap, &SETTINGS[2..4]);
}

/// `SEED=n` repeats a run.
fn seed() -> u64 {
    match env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => RandomState::new().hash_one("seed"),
    }
}

fn fuzz(program: Program, settings: &[(u8, u8, bool)]) {
    let seed = seed();
    println!("fuzz {program}: SEED={seed}");
    let (mut frames, mut reasons) = (0usize, BTreeMap::<Reason, usize>::new());
    in_namespace(|_| {
        let mut random = fuzz::Random(seed);
        for (fastpath, spoof, services) in settings {
            let mut settings = Settings { lease: LEASE, ..world::settings(*fastpath, *spoof) };
            if *services {
                settings = world::with_services(settings);
            }
            let mut model = Model::new(settings, &world::entries());
            let mut loaded = Loaded::new(settings);
            let start = Instant::now();
            for _ in 0..FRAMES / ROUND {
                round(program, &mut model, &mut loaded, &mut random, &mut reasons);
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
    model: &mut Model,
    loaded: &mut Loaded,
    random: &mut fuzz::Random,
    reasons: &mut BTreeMap<Reason, usize>,
) {
    let is_verified = model.settings().fastpath == Settings::VERIFIED;
    let mut counted = Counted::default();
    loaded.reset();
    let mut dealt = now();
    for i in 0..ROUND {
        if is_verified && i % DEAL == 0 {
            if i > 0 {
                compare_leases(model, loaded, dealt);
            }
            let services = model.settings().service_mark != 0;
            let leases = fuzz::leases(random, program, services);
            model.set_leases(&leases);
            loaded.set_leases(&leases);
            for (tag, arrival) in fuzz::arrivals(random, program) {
                model.set_seen(tag, arrival);
                loaded.add(&Entry::Seen(tag, arrival));
            }
            dealt = now();
        }
        let frame = fuzz::frame(random, program);
        let context = match program {
            // An XDP frame has neither mark nor tag.
            Program::DecapXdp => Context::new(program),
            _ => fuzz::context(random, program, &frame),
        };
        let expected = model.predict(program, &frame, &context);
        let ran = loaded.run(program, &frame, &context).expect("the kernel takes 34 bytes");
        let about = || {
            format!(
                "{program}, foreseen {:?} {:?}\n{context:?}\nframe {}",
                expected.count,
                expected.flow,
                hex::difference(&frame, &[])
            )
        };
        assert_eq!(ran.action, expected.ran.action, "{}", about());
        assert_eq!(ran.metadata, expected.ran.metadata, "{}", about());
        assert_eq!(ran.mark, expected.ran.mark, "mark: {}", about());
        assert!(
            ran.packet == expected.ran.packet,
            "{}\n{}",
            about(),
            hex::difference(&expected.ran.packet, &ran.packet)
        );
        for flow in expected.flow.iter().flat_map(|flow| [*flow, flow.reverse()]) {
            let lease = loaded.lease(&flow).map(|lease| ends_later(lease, dealt));
            assert_eq!(lease, model.lease(&flow), "lease of {flow:?}: {}", about());
        }
        if let Some((reason, bytes)) = expected.count {
            let counter = counted.reason(reason, bytes);
            assert_eq!(loaded.counter(reason), counter, "{reason:?}\n{}", about());
            *reasons.entry(reason).or_default() += 1;
        }
        counted.nodes.extend(expected.node);
        if is_verified && program != Program::DecapXdp {
            // Once more for `tc_index`, on what that has left of the leases.
            let expected = model.predict(program, &frame, &context);
            let tag = loaded.tag(program, &frame, &context);
            assert_eq!(tag, Some(u32::from(expected.tag)), "tag: {}", about());
            if let Some((reason, bytes)) = expected.count {
                counted.reason(reason, bytes);
            }
            counted.nodes.extend(expected.node);
        }
    }
    compare_leases(model, loaded, dealt);
    let wrong = case::difference(&loaded.counters(), &counted.reasons, &counted.nodes);
    assert!(wrong.is_empty(), "after {ROUND} frames:\n{wrong}");
}

/// What must have been counted so far.
#[derive(Default)]
struct Counted {
    sums: BTreeMap<Reason, Counter>,
    reasons: Vec<(Reason, u64)>,
    nodes: Vec<(Ipv4Addr, Direction, u64)>,
}

impl Counted {
    fn reason(&mut self, reason: Reason, bytes: u64) -> Counter {
        let counter = self.sums.entry(reason).or_default();
        counter.packets += 1;
        counter.bytes += bytes;
        self.reasons.push((reason, bytes));
        *counter
    }
}

/// What a program granted since `dealt` is [`LATER`] to the model, which knows no time, and what it
/// revoked is [`REVOKED`].
fn ends_later(lease: Lease, dealt: u64) -> Lease {
    let from = (dealt + LEASE) & !world::SIGNATURE;
    let granted = (from..=now() + LEASE).contains(&lease.expires);
    let expires = match lease.expires {
        revoked if revoked & REVOKED != 0 => REVOKED,
        _ if granted => LATER,
        other => other,
    };
    Lease { expires, ..lease }
}

/// All of them, not only those of the flows that passed.
fn compare_leases(model: &Model, loaded: &Loaded, dealt: u64) {
    let sorted = |leases: Vec<(Flow, Lease)>| {
        let mut lines: Vec<_> = leases.iter().map(|lease| format!("{lease:?}")).collect();
        lines.sort();
        lines
    };
    let leases = loaded.leases().into_iter();
    let left = leases.map(|(flow, lease)| (flow, ends_later(lease, dealt))).collect();
    assert_eq!(sorted(left), sorted(model.leases().to_vec()));
}
