//! Routes of a cluster of the size we are meant for, and what a process takes for them.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

/// Nodes of the cluster.
pub const NODES: u32 = 5_000;
/// Blocks, two of each node.
pub const BLOCKS: u32 = 10_000;
/// Addresses that a node has borrowed from another's block.
pub const BORROWED: u32 = 2_000;

/// The n-th node's address; after the last comes the first again.
#[must_use]
pub fn node(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 20, 0, 1)) + n % NODES)
}

/// The n-th block's first address.
#[must_use]
pub fn block(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + 64 * n)
}

/// A line for `ip -batch`: the n-th block's route, as BIRD would make it.
#[must_use]
pub fn route(verb: &str, n: u32, node: Ipv4Addr) -> String {
    format!("route {verb} {}/26 via {node} dev tunless0 onlink proto 12 metric 32\n", block(n))
}

/// The same of an address in the n-th block that the next node has borrowed.
#[must_use]
pub fn lent(n: u32) -> String {
    let address = Ipv4Addr::from(u32::from(block(n)) + 5);
    let (node, rest) = (node(n + 1), "dev tunless0 onlink proto 12 metric 32");
    format!("route add {address}/32 via {node} {rest}\n")
}

/// What a process has taken so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time, to 10 ms.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub memory: u64,
}

impl Usage {
    /// Of the process that has this number.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let stat = read("stat")?;
        // utime and stime (proc(5)), in ticks of 10 ms. The name before them may be anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        let status = read("status")?;
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.split_whitespace().next())
            .context("a process without memory")?;
        Ok(Self {
            cpu: Duration::from_millis(10 * ticks.iter().sum::<u64>()),
            memory: 1024 * kibibytes.parse::<u64>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{process, time::Instant};

    use super::*;

    #[test]
    fn work_shows_in_the_usage() {
        let before = Usage::of(process::id()).unwrap();
        let started = Instant::now();
        while Usage::of(process::id()).unwrap().cpu <= before.cpu {
            assert!(started.elapsed() < Duration::from_secs(60), "{before:?}");
        }
        assert!(before.memory > 100 << 10, "{before:?}");
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn blocks_follow_one_another() {
        assert_eq!(block(BLOCKS - 1), Ipv4Addr::new(100, 73, 195, 192));
        assert_eq!((node(0), node(NODES)), (node(NODES), Ipv4Addr::new(172, 20, 0, 1)));
        assert!(route("add", 3, node(4)).starts_with("route add 100.64.0.192/26 via 172.20.0.5 "));
        assert!(lent(3).starts_with("route add 100.64.0.197/32 via 172.20.0.5 "));
    }
}
