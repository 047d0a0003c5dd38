//! One run: all probes through one node; then the comparison.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_common::Reason;
use serde_json::Value;
use tunless_lab::capture::Capture;

use super::{
    compare::compare,
    decap,
    difference::Difference,
    encap,
    node::{Conntrack, Mode, Setup, UnderTest},
    observe::{Observed, Observer, Tunl0Capture},
    probe::{Probe, Way},
};

/// Numbers of the first probes.
const ENCAP: u16 = 1;
const DECAP: u16 = 10_000;
/// How long the daemon may take to know what a fast path needs.
const WARM: Duration = Duration::from_secs(30);
/// Of the probes so many at least leave or arrive encapsulated.
const SEEN: u64 = 3_000;
/// So many differing probes are shown.
const SHOWN: usize = 25;

/// All that one run shows.
#[derive(Clone, Debug)]
struct Outcome {
    observed: Observed,
    /// tunl0's counters that are not 0 before a probe was left to the kernel;
    /// none where tunl0 is down.
    counters: Vec<(String, u64)>,
    /// Meanwhile, on tunl0.
    capture: Option<Tunl0Capture>,
    /// What `mode: shadow` found.
    shadow: Option<Value>,
}

/// The kernel's outcomes, without conntrack and with it: looked at once.
static KERNEL: [Mutex<Option<Outcome>>; 2] = [Mutex::new(None), Mutex::new(None)];

fn kernel(conntrack: Conntrack) -> Result<Outcome> {
    let cell = match conntrack {
        Conntrack::Off => &KERNEL[0],
        Conntrack::On => &KERNEL[1],
    };
    let mut cell =
        cell.lock().map_err(|_| anyhow::anyhow!("the run of the kernel alone panicked"))?;
    if let Some(outcome) = &*cell {
        return Ok(outcome.clone());
    }
    let outcome = run(Setup::kernel(conntrack), &all_probes()).context("the kernel alone")?;
    Ok(cell.insert(outcome).clone())
}

fn all_probes() -> Vec<(Way, Vec<Probe>)> {
    vec![(Way::Encap, encap::probes(ENCAP)), (Way::Decap, decap::probes(DECAP))]
}

/// Two runs of the kernel alone show no difference: what else a comparison
/// finds is not chance.
pub fn kernel_with_itself() -> Result<()> {
    let probes = all_probes();
    for conntrack in [Conntrack::Off, Conntrack::On] {
        let again = run(Setup::kernel(conntrack), &probes)?;
        compare_all(&kernel(conntrack)?, &again, &probes, None)?;
    }
    Ok(())
}

/// tunless beside what the kernel does alone.
pub fn tunless(setup: Setup) -> Result<()> {
    let probes = all_probes();
    let reference = kernel(setup.conntrack)?;
    let tested = run(setup, &probes)?;
    let mut met = compare_all(&reference, &tested, &probes, Some(setup))?;
    tunl0_is_idle(setup, &reference, &tested, &mut met)?;
    for difference in Difference::ALL {
        ensure!(
            met.contains(difference) == difference.modes().include(setup),
            "{difference:?} is listed for {:?}, and was {}seen",
            difference.modes(),
            if met.contains(difference) { "" } else { "not " }
        );
    }
    Ok(())
}

/// With `mode: shadow` every byte is the kernel's, and what is sent differs in nothing that is not known.
pub fn shadow() -> Result<()> {
    let setup = Setup::tunless(Mode::Shadow, "verified", Conntrack::On);
    let probes = all_probes();
    let tested = run(setup, &probes)?;
    compare_all(&kernel(setup.conntrack)?, &tested, &probes, None)?;
    let report = tested.shadow.context("it reports")?;
    let findings = report["findings"].as_object().context("findings")?;
    println!("parity: shadow found {findings:?}");
    for name in ["out_same", "out_known", "in_same", "in_dropped", "in_ttl", "in_left"] {
        ensure!(findings.contains_key(name), "nothing is {name}: {report:#}");
    }
    // Of what arrives the probes themselves write other TTLs.
    let is_expected = |name: &String| {
        ["out_same", "out_known", "out_left", "out_aside"].contains(&name.as_str())
            || name.starts_with("in_")
            || name.starts_with("sample_")
    };
    let unexplained: Vec<_> = findings.iter().filter(|(name, _)| !is_expected(name)).collect();
    ensure!(unexplained.is_empty(), "{unexplained:?}: {:#}", report["last"]);
    Ok(())
}

fn run(setup: Setup, probes: &[(Way, Vec<Probe>)]) -> Result<Outcome> {
    let under_test = UnderTest::start(setup)?;
    let lab = &under_test.lab;
    let capture =
        setup.has_tunl0().then(|| Capture::start(&lab.node2.netns, "tunl0")).transpose()?;
    let mut observer = Observer::start(lab)?;
    warm_up(setup, &under_test, &mut observer)?;
    let before = fast(setup, &under_test)?;
    for (way, probes) in probes {
        let taken: Vec<&Probe> = probes.iter().filter(|probe| !probe.is_left).collect();
        observer.send(*way, &taken)?;
    }
    took_the_fast_path(before, fast(setup, &under_test)?)?;
    let counters = if setup.has_tunl0() { under_test.tunl0_counters()? } else { Vec::new() };
    let capture = capture.map(Tunl0Capture::of).transpose()?;
    for (way, probes) in probes {
        let left: Vec<&Probe> = probes.iter().filter(|probe| probe.is_left).collect();
        observer.send(*way, &left)?;
    }
    let observed = observer.finish()?;
    let is_shadow = setup.mode() == Some(Mode::Shadow);
    let shadow = is_shadow.then(|| under_test.shadow_report(SEEN)).transpose()?;
    under_test.finish()?;
    Ok(Outcome { observed, counters, capture, shadow })
}

/// Sends plain datagrams both ways until they take the fast path, if there is
/// one: MACs are learnt, and the flow is leased.
fn warm_up(setup: Setup, under_test: &UnderTest, observer: &mut Observer) -> Result<()> {
    let end = Instant::now() + WARM;
    loop {
        for way in [Way::Encap, Way::Decap, Way::Encap, Way::Decap] {
            observer.mark(way)?;
        }
        match fast(setup, under_test)? {
            Some([encap, decap]) if encap == 0 || decap == 0 => {
                ensure!(Instant::now() < end, "no packet takes the fast path");
            }
            _ => return Ok(()),
        }
    }
}

/// How many packets took the fast path, each way.
fn fast(setup: Setup, under_test: &UnderTest) -> Result<Option<[u64; 2]>> {
    if !setup.has_fast_path() {
        return Ok(None);
    }
    Ok(Some([
        under_test.counted(Reason::PodEncapsulated)?,
        under_test.counted(Reason::DecapToPod)?,
    ]))
}

/// Most probes are plain in all but one thing, and have to take the way that
/// the run is about.
fn took_the_fast_path(before: Option<[u64; 2]>, after: Option<[u64; 2]>) -> Result<()> {
    if let (Some(before), Some(after)) = (before, after) {
        for (before, after) in before.into_iter().zip(after) {
            ensure!(after - before > 1500, "only {} packets took the fast path", after - before);
        }
    }
    Ok(())
}

/// Compares every probe, and says how many there were.
fn compare_all(
    reference: &Outcome,
    tested: &Outcome,
    probes: &[(Way, Vec<Probe>)],
    setup: Option<Setup>,
) -> Result<BTreeSet<Difference>> {
    let mut met = BTreeSet::new();
    let mut failures = Vec::new();
    let (mut sent, mut frames) = (0, 0);
    for (way, probes) in probes {
        for probe in probes {
            let of =
                |outcome: &Outcome| outcome.observed.get(&probe.tag).cloned().unwrap_or_default();
            let (kernel, ours) = (of(reference), of(tested));
            sent += probe.packets.len();
            frames += kernel.len();
            failures.extend(compare(probe, &kernel, &ours, setup, &mut met).err());
        }
        let known = |tag: &u16| probes.iter().any(|probe| probe.tag == *tag);
        let strays = |outcome: &Outcome| {
            let range = match way {
                Way::Encap => 0..DECAP,
                Way::Decap => DECAP..u16::MAX,
            };
            outcome.observed.range(range).filter(|(tag, _)| !known(tag)).count()
        };
        ensure!(strays(reference) + strays(tested) == 0, "something came out that nobody sent");
    }
    println!("parity: {sent} packets sent, {frames} came out of tunl0, {} differ", failures.len());
    if failures.is_empty() {
        return Ok(met);
    }
    let count = failures.len();
    failures.truncate(SHOWN);
    bail!("{count} probes differ, the first of them:\n{}", failures.join("\n"))
}

/// tunl0 sees nothing of what tunless takes from it.
fn tunl0_is_idle(
    setup: Setup,
    reference: &Outcome,
    tested: &Outcome,
    met: &mut BTreeSet<Difference>,
) -> Result<()> {
    let Some(capture) = tested.capture else { return Ok(()) };
    let busy = reference.capture.context("tunl0 alone is captured")?;
    ensure!(
        tested.counters.is_empty(),
        "tunl0 counted what tunless should have taken: {:?}",
        tested.counters
    );
    for wanted in ["rx packets", "tx packets"] {
        ensure!(
            reference.counters.iter().any(|(name, _)| name == wanted),
            "tunl0 alone has no {wanted}: {:?}",
            reference.counters
        );
    }
    met.insert(Difference::Tunl0Counters);
    ensure!(busy.incoming > 0 && busy.outgoing > 0, "a capture on tunl0 alone saw {busy:?}");
    ensure!(capture.outgoing == 0, "a capture on tunl0 saw {capture:?}");
    ensure!(
        !setup.has_fast_path() || capture.incoming < busy.incoming / 2,
        "a capture on tunl0 saw {capture:?}, {busy:?} without tunless"
    );
    met.insert(Difference::Tunl0Captures);
    Ok(())
}
