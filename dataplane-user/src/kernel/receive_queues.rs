//! Which CPUs go on with what a receive queue brings: RPS, Receive Packet Steering
//! (`Documentation/networking/scaling.rst`).
//!
//! The kernel hashes through IPIP, so it tells flows apart by their inner headers where a NIC sees
//! one outer header (`net/core/flow_dissector.c`). The driver, GRO and that hash stay with the CPU
//! that the queue interrupts; the rest of a packet's way, our programs included, is the other's.
//! Packets of a flow stay in order: its hash is its CPU's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Host;

const INTERFACES: &str = "/sys/class/net";
const CPUS: &str = "/sys/devices/system/cpu";

/// A set of CPUs, by number. As text it is the kernel's bitmap: hexadecimal words of 32 bits, the
/// highest first, separated by commas (`lib/vsprintf.c`, `bitmap_string`).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Cpus(pub BTreeSet<usize>);

impl Cpus {
    /// Returns whether no CPU is in it; to RPS: it is off.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the CPUs as people write them: `0-2,5`.
    #[must_use]
    pub fn ranges(&self) -> String {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
                _ => ranges.push((*cpu, *cpu)),
            }
        }
        let text = |(first, last): &(usize, usize)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        ranges.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// Parses [`Self::ranges`], as the kernel prints lists (`bitmap_list_string`).
    fn from_ranges(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for range in text.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
        }
        Some(Self(cpus))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = vec![0_u32; self.0.last().map_or(1, |last| last / 32 + 1)];
        for cpu in &self.0 {
            words[cpu / 32] |= 1 << (cpu % 32);
        }
        let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
        f.write_str(&words.join(","))
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = BTreeSet::new();
        for (position, word) in text.trim().rsplit(',').enumerate() {
            let bits = u32::from_str_radix(word, 16)
                .map_err(|_| format!("`{}` is not a bitmap of CPUs", text.trim()))?;
            let set = (0..32).filter(|bit| bits & 1 << bit != 0);
            cpus.extend(set.map(|bit| position * 32 + bit));
        }
        Ok(Self(cpus))
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A receive queue, as in `eth0 rx-0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Queue(String);

impl Queue {
    /// Queue `number` of an interface.
    #[must_use]
    pub fn new(interface: &str, number: u32) -> Self {
        Self(format!("{interface} rx-{number}"))
    }

    /// Returns the interface's name.
    #[must_use]
    pub fn interface(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    fn file(&self) -> PathBuf {
        let (interface, queue) = self.0.split_once(' ').unwrap_or_default();
        [INTERFACES, interface, "queues", queue, "rps_cpus"].iter().collect()
    }

    /// Reads which CPUs go on with its packets; `None`: there is no such queue.
    ///
    /// # Errors
    /// If the file cannot be read or understood.
    pub fn read(&self) -> Result<Option<Cpus>> {
        let file = self.file();
        match fs::read_to_string(&file) {
            // A name that another device has by now may have fewer queues.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => {
                let text = text.with_context(|| format!("reading {}", file.display()))?;
                text.parse().map(Some).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))
            }
        }
    }

    /// Sets which CPUs go on with its packets.
    ///
    /// # Errors
    /// If the kernel refuses, or `/sys` is read-only.
    pub fn write(&self, cpus: &Cpus) -> Result<()> {
        let file = self.file();
        fs::write(&file, cpus.to_string())
            .with_context(|| format!("writing {cpus} to {}", file.display()))
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether an interface is there, and whether sysfs shows it: a mount of `/sys` shows the
/// network namespace that it was made in, which need not be ours.
///
/// # Errors
/// If sysfs shows another interface of that name.
pub fn is_shown(host: &Host, interface: &str) -> Result<bool> {
    let Some((ifindex, link)) = host.link(interface) else { return Ok(false) };
    let directory = Path::new(INTERFACES).join(interface);
    let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let is_this = read("ifindex").trim() == ifindex.to_string()
        && read("address").trim() == link.mac.to_string();
    ensure!(
        is_this,
        "{} is not the {interface} of this network namespace: RPS needs a /sys that was mounted \
         in it",
        directory.display()
    );
    Ok(true)
}

/// Returns the queues by which an interface's packets arrive, and which CPUs go on with them. RPS
/// comes before a bond, bridge or VLAN takes the packet, so the queues are those of the hardware
/// below. None where the kernel was built without RPS.
///
/// # Errors
/// If sysfs cannot be read.
pub fn below(interface: &str) -> Result<BTreeMap<Queue, Cpus>> {
    let mut found = BTreeMap::new();
    let mut left = vec![(interface.to_owned(), 0)];
    while let Some((interface, depth)) = left.pop() {
        let directory = Path::new(INTERFACES).join(&interface);
        let lower: Vec<String> = names(&directory, "lower_")?;
        if !lower.is_empty() && depth < 8 {
            left.extend(lower.into_iter().map(|name| (name, depth + 1)));
            continue;
        }
        for number in names(&directory.join("queues"), "rx-")? {
            let Ok(number) = number.parse() else { continue };
            let queue = Queue::new(&interface, number);
            if let Some(cpus) = queue.read()? {
                found.insert(queue, cpus);
            }
        }
    }
    Ok(found)
}

/// The entries of a directory that begin with `prefix`, without it.
fn names(directory: &Path, prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", directory.display()))?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| Some(name.strip_prefix(prefix)?.to_owned())).collect())
}

/// Returns the CPUs that may be given packets: those that run and are not set apart for one
/// workload (`isolcpus`, `nohz_full`); the kernel refuses the latter
/// (`net/core/net-sysfs.c`, `rps_cpumask_housekeeping`).
///
/// # Errors
/// If sysfs cannot be read.
pub fn usable_cpus() -> Result<Cpus> {
    let read = |name: &str| -> Result<Option<Cpus>> {
        let file = Path::new(CPUS).join(name);
        match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // `nohz_full` of a kernel that has none is `(null)`.
            text => Ok(Cpus::from_ranges(&text.with_context(|| file.display().to_string())?)),
        }
    };
    let mut cpus = read("online")?.with_context(|| format!("{CPUS}/online holds no list"))?;
    for apart in ["isolated", "nohz_full"] {
        let apart = read(apart)?.unwrap_or_default();
        cpus.0.retain(|cpu| !apart.0.contains(cpu));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cpus(numbers: &[usize]) -> Cpus {
        Cpus(numbers.iter().copied().collect())
    }

    #[test]
    fn bitmaps_are_the_kernels() {
        let cases: [(&str, &[usize]); 6] = [
            ("0", &[]),
            ("f\n", &[0, 1, 2, 3]),
            ("00000000,00000001", &[0]),
            ("1,80000000", &[31, 32]),
            ("ff", &[0, 1, 2, 3, 4, 5, 6, 7]),
            ("8,00000000,00000000", &[67]),
        ];
        for (text, numbers) in cases {
            assert_eq!(text.parse(), Ok(cpus(numbers)), "{text}");
        }
        assert_eq!(cpus(&[0, 1]).to_string(), "00000003");
        assert_eq!(cpus(&[33]).to_string(), "00000002,00000000");
        assert_eq!(cpus(&[]).to_string(), "00000000");
        for bad in ["", "x", "1,", "100000000", "-1"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_the_kernels() {
        for (text, numbers) in [("0-1\n", &[0, 1][..]), ("0-2,5", &[0, 1, 2, 5]), ("\n", &[])] {
            assert_eq!(Cpus::from_ranges(text), Some(cpus(numbers)), "{text}");
            assert_eq!(cpus(numbers).ranges(), text.trim());
        }
        assert_eq!(Cpus::from_ranges("(null)"), None);
    }

    #[test]
    fn a_queue_knows_its_file() {
        let queue = Queue::new("eth0.7", 12);
        assert_eq!(queue.file(), Path::new("/sys/class/net/eth0.7/queues/rx-12/rps_cpus"));
        assert_eq!((queue.interface(), queue.to_string().as_str()), ("eth0.7", "eth0.7 rx-12"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(numbers: BTreeSet<u8>) {
            let cpus = Cpus(numbers.into_iter().map(usize::from).collect());
            prop_assert_eq!(cpus.to_string().parse::<Cpus>(), Ok(cpus.clone()));
            prop_assert_eq!(Cpus::from_ranges(&cpus.ranges()), Some(cpus));
        }
    }
}
