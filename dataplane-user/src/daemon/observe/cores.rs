//! Whether one CPU handles most encapsulated packets and has no time left for more.
//!
//! All packets between two nodes have one outer header, so most NICs deliver them to one
//! receive queue, and one CPU. The kernel counts how each CPU spends its time
//! (`/proc/stat`) and what it received (`/proc/net/softnet_stat`), our programs what each
//! decapsulated: two samples of these are compared, and no packet pays for it.

use std::{
    collections::BTreeMap,
    fs, io,
    time::{Duration, Instant},
};

use crate::daemon::decide::spread::Heat;

/// One CPU's counters since the machine has booted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Cpu {
    /// Time of all kinds, ticks.
    total: u64,
    /// Time in interrupts and what they leave to do (`irq`, `softirq`), ticks.
    interrupts: u64,
    /// Packets that were dropped because too many waited for this CPU.
    dropped: u64,
    /// Packets that our programs decapsulated here.
    decapsulated: u64,
}

/// All CPUs, by number.
type Sample = BTreeMap<usize, Cpu>;

/// A CPU that has no time left. No figures: a problem whose text changes is logged again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hot {
    /// Its number.
    pub cpu: usize,
    /// Whether packets were dropped between the two samples because too many waited for it.
    pub has_dropped: bool,
}

/// The last sample, and what it came to.
#[derive(Default, Debug)]
pub struct Cores {
    last: Option<(Instant, Sample)>,
    hot: Option<Hot>,
    /// For how many samples in turn a CPU has been hot.
    hot_for: u32,
    /// For how many samples in turn one CPU could have done all of the work.
    calm_for: u32,
}

impl Cores {
    /// Takes a sample, if the last one is old enough to compare it with. `decapsulated`: how
    /// many packets our programs have decapsulated, by CPU.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn look(&mut self, decapsulated: &[u64]) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|(at, _)| at.elapsed() < INTERVAL) {
            return Ok(());
        }
        self.compare(sample(decapsulated)?);
        Ok(())
    }

    fn compare(&mut self, sample: Sample) {
        let was = self.hot.map(|hot| hot.cpu);
        let spent = self.last.as_ref().map(|(_, last)| spent(last, &sample)).unwrap_or_default();
        self.hot = hot(&spent, was);
        self.hot_for = if self.hot.is_some() { self.hot_for + 1 } else { 0 };
        self.calm_for = if is_calm(&spent) { self.calm_for + 1 } else { 0 };
        self.last = Some((Instant::now(), sample));
    }

    /// Returns how busy the CPUs have been for a while.
    #[must_use]
    pub fn heat(&self) -> Heat {
        match self.hot {
            Some(Hot { cpu, .. }) if self.hot_for >= HOT_SAMPLES => Heat::Hot(cpu),
            _ if self.calm_for >= CALM_SAMPLES => Heat::Calm,
            _ => Heat::Neither,
        }
    }

    /// The CPU that was hot between the last two samples.
    #[must_use]
    pub fn hot(&self) -> Option<Hot> {
        self.hot
    }
}

/// Samples closer than this are not compared: a tick of the clock is 10 ms.
const INTERVAL: Duration = Duration::from_secs(5);
/// A CPU that spends this much of its time on packets has no time left.
const BUSY: f64 = 0.9;
/// Below this it has time again: between the two it stays what it was, so that it is not
/// reported anew each time it crosses a line.
const COOL: f64 = 0.75;
/// With this much of the decapsulation on one CPU the others hardly help.
const SHARE: f64 = 0.5;
/// Fewer decapsulated packets a sample are not what keeps a CPU busy.
const PACKETS: u64 = 1_000;

/// A CPU is hot for a while after so many samples, some 20 s: a burst is over by then.
const HOT_SAMPLES: u32 = 2;
/// All is calm for a while after so many samples, some minute.
const CALM_SAMPLES: u32 = 6;
/// All is calm when received packets take less of all CPUs' time than this of one CPU's.
const CALM: f64 = 0.5;

/// What a CPU did between two samples.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Spent {
    /// Of its time, the part for received packets.
    busy: f64,
    decapsulated: u64,
    dropped: u64,
}

/// Returns what each CPU that was there all the time did between two samples.
fn spent(before: &Sample, after: &Sample) -> BTreeMap<usize, Spent> {
    let mut spent = BTreeMap::new();
    for (cpu, now) in after {
        // A CPU that came meanwhile, or whose counters began anew.
        let Some(then) = before.get(cpu) else { continue };
        let since = |value: fn(&Cpu) -> u64| value(now).checked_sub(value(then));
        let total = since(|cpu| cpu.total).filter(|total| *total > 0);
        let interrupts = since(|cpu| cpu.interrupts);
        let decapsulated = since(|cpu| cpu.decapsulated);
        let dropped = since(|cpu| cpu.dropped).unwrap_or_default();
        if let (Some(total), Some(interrupts), Some(decapsulated)) =
            (total, interrupts, decapsulated)
        {
            let busy = interrupts as f64 / total as f64;
            spent.insert(*cpu, Spent { busy, decapsulated, dropped });
        }
    }
    spent
}

/// Returns whether received packets were few.
fn is_calm(spent: &BTreeMap<usize, Spent>) -> bool {
    !spent.is_empty() && spent.values().map(|spent| spent.busy).sum::<f64>() < CALM
}

/// Returns the CPU that was hot, if one was and another could have helped it. `was`: the one that
/// was hot before.
fn hot(spent: &BTreeMap<usize, Spent>, was: Option<usize>) -> Option<Hot> {
    let sum: u64 = spent.values().map(|spent| spent.decapsulated).sum();
    let (cpu, Spent { busy, decapsulated, dropped }) =
        spent.iter().max_by_key(|(_, spent)| spent.decapsulated)?;
    let share = *decapsulated as f64 / sum.max(1) as f64;
    let has_idle = spent.iter().any(|(other, spent)| other != cpu && spent.busy < BUSY / 2.0);
    let limit = if was == Some(*cpu) { COOL } else { BUSY };
    let is_hot = *decapsulated >= PACKETS && *busy >= limit && share >= SHARE && has_idle;
    is_hot.then_some(Hot { cpu: *cpu, has_dropped: *dropped > 0 })
}

/// Reads the kernel's counters.
fn sample(decapsulated: &[u64]) -> io::Result<Sample> {
    let stat = fs::read_to_string("/proc/stat")?;
    // It counts drops, and nothing else: without it there are none to report.
    let softnet = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    Ok(parse(&stat, &softnet, decapsulated))
}

/// Reads `/proc/stat` and `/proc/net/softnet_stat`, as `proc_stat(5)` and the kernel's
/// net/core/net-procfs.c have them.
fn parse(stat: &str, softnet: &str, decapsulated: &[u64]) -> Sample {
    let mut sample = Sample::new();
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        let cpu = words.next().and_then(|word| word.strip_prefix("cpu")?.parse().ok());
        let Some(cpu) = cpu else { continue };
        // user, nice, system, idle, iowait, irq, softirq, steal; guest is part of user.
        let times: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
        let [.., irq, softirq, _steal] = times[..] else { continue };
        sample.insert(
            cpu,
            Cpu {
                total: times.iter().sum(),
                interrupts: irq + softirq,
                decapsulated: decapsulated.get(cpu).copied().unwrap_or_default(),
                dropped: 0,
            },
        );
    }
    for (position, line) in softnet.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // The thirteenth is the CPU, since Linux 5.10; before, the line's number is.
        let cpu = words.get(12).and_then(|word| usize::from_str_radix(word, 16).ok());
        let dropped = words.get(1).and_then(|word| u64::from_str_radix(word, 16).ok());
        if let Some(known) = sample.get_mut(&cpu.unwrap_or(position)) {
            known.dropped = dropped.unwrap_or_default();
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  300 0 100 600 0 20 30 0 0 0\n\
                        cpu0 100 0 50 300 0 10 10 0 0 0\n\
                        cpu2 200 0 50 300 0 10 20 5 7 0\n\
                        intr 12345 0\n";
    const SOFTNET: &str = "0000000a 00000001 00000000 0 0 0 0 0 0 0 0 0 00000000 0 0\n\
                           0000000b 0000001f 00000000 0 0 0 0 0 0 0 0 0 00000002 0 0\n";

    #[test]
    fn the_kernels_counters_are_read() {
        let cpu = |total, interrupts, dropped, decapsulated| Cpu {
            total,
            interrupts,
            dropped,
            decapsulated,
        };
        let expected = Sample::from([(0, cpu(470, 20, 1, 7)), (2, cpu(585, 30, 31, 9))]);
        assert_eq!(parse(STAT, SOFTNET, &[7, 8, 9]), expected);
        let before_5_10 = "0000000a 00000001 0 0\n";
        assert_eq!(parse(STAT, before_5_10, &[])[&0].dropped, 1);
        assert_eq!(parse("cpux 1\ncpu0 1 2\n", "", &[]), Sample::new());
    }

    #[test]
    fn this_machine_can_be_read() {
        let sample = sample(&[]).unwrap();
        assert!(!sample.is_empty() && sample.values().all(|cpu| cpu.total > 0), "{sample:?}");
    }

    /// Ticks in interrupts of 1,000, and decapsulated packets: of each CPU.
    #[test]
    fn a_cpu_is_hot_if_it_is_busy_with_our_packets_and_others_are_not() {
        for (cpus, expected) in [
            (vec![(950, 90_000), (20, 1_000)], Some(0)),
            (vec![(20, 1_000), (950, 90_000)], Some(1)),
            (vec![(950, 60_000), (300, 40_000), (30, 0)], Some(0)),
            // Busy, but not alone: nothing is gained by spreading.
            (vec![(950, 90_000), (800, 10_000)], None),
            (vec![(950, 90_000)], None),
            // Busy with other things.
            (vec![(950, 900), (20, 0)], None),
            (vec![(950, 30_000), (20, 30_000), (20, 30_000)], None),
            // Not busy.
            (vec![(890, 90_000), (20, 1_000)], None),
            (vec![], None),
        ] {
            let begin = Cpu { total: 5_000, interrupts: 100, dropped: 3, decapsulated: 10 };
            let before: Sample = (0..cpus.len()).map(|cpu| (cpu, begin)).collect();
            let later = |(interrupts, decapsulated): &(u64, u64)| Cpu {
                total: begin.total + 1_000,
                interrupts: begin.interrupts + interrupts,
                dropped: begin.dropped + 5,
                decapsulated: begin.decapsulated + decapsulated,
            };
            let after: Sample = cpus.iter().map(later).enumerate().collect();
            let hot = |before: &Sample, after: &Sample| hot(&spent(before, after), None);
            let found = hot(&before, &after);
            assert_eq!(found.map(|hot| hot.cpu), expected, "{cpus:?}");
            assert!(found.is_none_or(|hot| hot.has_dropped));
            // Counters that began anew, and CPUs that came meanwhile, are no ground.
            assert_eq!(hot(&after, &before), None);
            assert_eq!(hot(&Sample::new(), &after), None);
            assert_eq!(hot(&before, &before), None);
        }
    }

    #[test]
    fn a_cpu_stays_hot_until_it_is_cooler() {
        let cpu =
            |interrupts, decapsulated| Cpu { total: 1_000, interrupts, dropped: 0, decapsulated };
        let before = Sample::from([(0, Cpu::default()), (1, Cpu::default())]);
        for (interrupts, was, expected) in
            [(899, None, false), (899, Some(0), true), (899, Some(1), false), (749, Some(0), false)]
        {
            let after = Sample::from([(0, cpu(interrupts, 90_000)), (1, cpu(10, 10))]);
            let found = hot(&spent(&before, &after), was);
            assert_eq!(found.is_some(), expected, "{interrupts} {was:?}");
        }
    }

    /// Ticks in interrupts of 1,000 on two CPUs, and what follows.
    #[test]
    fn heat_is_what_lasts() {
        let steps: Vec<([u64; 2], Heat)> = [
            vec![([10, 10], Heat::Neither); 5],
            vec![([10, 10], Heat::Calm); 2],
            vec![([950, 10], Heat::Neither), ([950, 10], Heat::Hot(0)), ([800, 10], Heat::Hot(0))],
            vec![
                ([600, 10], Heat::Neither),
                ([950, 10], Heat::Neither),
                ([300, 300], Heat::Neither),
            ],
            vec![([240, 240], Heat::Neither); 5],
            vec![([240, 240], Heat::Calm), ([300, 240], Heat::Neither)],
        ]
        .concat();
        let mut cores = Cores::default();
        let mut sample = Sample::from([(0, Cpu::default()), (1, Cpu::default())]);
        // The first one has nothing to be compared with.
        cores.compare(sample.clone());
        for (step, (busy, expected)) in steps.into_iter().enumerate() {
            for (cpu, busy) in sample.values_mut().zip(busy) {
                cpu.total += 1_000;
                cpu.interrupts += busy;
                cpu.decapsulated += busy * 100;
            }
            cores.compare(sample.clone());
            assert_eq!(cores.heat(), expected, "step {step}: {busy:?}");
        }
    }
}
