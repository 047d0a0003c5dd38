//! Conntrack's sysctls, which are those of this network namespace.
//!
//! Of a leased flow conntrack sees a packet every few seconds. It must not take that for an attack
//! (`be_liberal`: the sequence numbers have run away; nor for a stray reset, past 2 GiB,
//! `ignore_invalid_rst`), and must not have forgotten the flow by then, nor forget it sooner than
//! it would have without leases once the flow falls silent.
//!
//! # What conntrack derives from packets that leases hide
//!
//! A packet outside the window that `be_liberal` lets through refreshes the timer, but updates
//! nothing else (`nf_conntrack_proto_tcp.c`, `tcp_in_window`). So what a connection's last packet
//! before the lease left behind stays for the rest of its life:
//!
//! | state | effect while it is frozen | what is done |
//! |---|---|---|
//! | data not acknowledged | `timeout_unacknowledged` (300 s) in the place of `timeout_established` | raised, see [`RELAXED`] |
//! | retransmissions counted, a window of 0 | `timeout_max_retrans` (300 s), likewise | raised |
//! | window, sequence numbers | `INVALID` | `be_liberal`, `ignore_invalid_rst` |
//! | `FIN_WAIT`, `CLOSE_WAIT`, `LAST_ACK`, `TIME_WAIT`, `CLOSE` | none: SYN, FIN and RST are never leased, and they end the leases of both directions, so the ACK of a FIN is seen. A connection that is closing, or half-closed, is not leased again | `rules.rs`; where [`Timers`] do not tell it is leased, and renews the timer once per lease ([`check_lease`]) |
//! | picked up in the middle (`tcp_loose`) | as the first rows: most such connections begin with unacknowledged data | raised |
//! | a picked-up connection with `tcp_loose` 0 | none: it is `INVALID` with leases and without | |
//! | UDP, stream or not | a flow shorter than one lease keeps `udp_timeout` (30 s) where it would have had `udp_timeout_stream` (120 s), and is not yet `ASSURED`; both timers run from the last packet that the stack saw, up to a lease earlier | a limit: raising `udp_timeout` would keep every DNS query for as long |
//! | `ASSURED` of TCP | none: the handshake is never leased | |
//! | SCTP, GRE, ICMP and other protocols | none: only TCP and UDP are leased | |
//! | helpers, NAT, sequence adjustment | none: such flows are never leased (`rules.rs`) | |
//! | timers of a `ct timeout` policy | as the first rows; the sysctls do not reach them | a limit for pods' flows; no leases of Services (`service_rules.rs`) |
//! | packets and bytes (`nf_conntrack_acct`) | leased packets are missing | a limit |
//!
//! All of this relaxes checks and timers for every connection of the host: of a peer that vanished
//! without a FIN conntrack keeps the entry for `timeout_established`, not for 300 s.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::container;

/// The sysctl of this name, which is below `net.netfilter`.
fn file(name: &str) -> PathBuf {
    container::sysctl("netfilter").join(name)
}

/// How long a silent TCP connection is remembered, seconds.
pub const ESTABLISHED: &str = "nf_conntrack_tcp_timeout_established";
/// The same of one that begins to close, and of one that is closed.
pub(super) const CLOSING: [&str; 5] = [
    "nf_conntrack_tcp_timeout_fin_wait",
    "nf_conntrack_tcp_timeout_close_wait",
    "nf_conntrack_tcp_timeout_last_ack",
    "nf_conntrack_tcp_timeout_time_wait",
    "nf_conntrack_tcp_timeout_close",
];

/// How long TCP connections are remembered, seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timers {
    /// While they are open.
    pub established: u32,
    /// While they close, and after that: the longest.
    pub closing: u32,
}

impl Timers {
    /// Returns those of this host.
    ///
    /// # Errors
    /// If a sysctl cannot be read.
    pub fn look() -> Result<Self> {
        Self::by(read)
    }

    pub(super) fn by(read: impl Fn(&str) -> Result<u32>) -> Result<Self> {
        let closing: Vec<u32> = CLOSING.into_iter().map(&read).collect::<Result<_>>()?;
        let closing = closing.into_iter().max().unwrap_or(0);
        Ok(Self { established: read(ESTABLISHED)?, closing })
    }

    /// Returns the longest timer of a closing connection, if timers tell those from open ones.
    #[must_use]
    pub fn tell_closing(self) -> Option<u32> {
        (self.closing < self.established).then_some(self.closing)
    }
}

/// What a sysctl has to be while flows are leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// 1.
    On,
    /// No shorter than `nf_conntrack_tcp_timeout_established`; conntrack uses such a timer only
    /// where it is shorter.
    AsLongAsEstablished,
}

/// A sysctl that leases need to be otherwise than the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relaxed {
    /// Its name below `net.netfilter`.
    pub name: &'static str,
    need: Need,
    /// What the kernel begins with.
    default: u32,
}

/// All of them.
pub const RELAXED: [Relaxed; 4] = [
    Relaxed { name: "nf_conntrack_tcp_be_liberal", need: Need::On, default: 0 },
    Relaxed { name: "nf_conntrack_tcp_ignore_invalid_rst", need: Need::On, default: 0 },
    Relaxed {
        name: "nf_conntrack_tcp_timeout_unacknowledged",
        need: Need::AsLongAsEstablished,
        default: 300,
    },
    Relaxed {
        name: "nf_conntrack_tcp_timeout_max_retrans",
        need: Need::AsLongAsEstablished,
        default: 300,
    },
];

/// A sysctl's value and what leases need it to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its value; `None`: missing.
    pub value: Option<u32>,
    /// What leases need, given that value.
    pub needed: u32,
}

impl Relaxed {
    /// Returns what the sysctl has to be, given what it is `now`.
    ///
    /// # Errors
    /// If there is no conntrack.
    pub fn needed(&self, now: u32) -> Result<u32> {
        match self.need {
            Need::On => Ok(1),
            Need::AsLongAsEstablished => Ok(now.max(read(ESTABLISHED)?)),
        }
    }

    /// Reads it.
    #[must_use]
    pub fn look(&self) -> Found {
        let value = read(self.name).ok();
        // Without conntrack there is nothing to compare with.
        let needed = self.needed(value.unwrap_or(0)).unwrap_or(1);
        Found { value, needed }
    }

    /// Describes a value that another program has set, and that is changed to `needed`.
    #[must_use]
    pub fn changed_by_others(&self, now: u32, needed: u32) -> String {
        let name = self.name;
        match self.need {
            Need::On => format!(
                "{name} was changed to {now} by another program; setting it to {needed} again, \
                 which leased flows need"
            ),
            Need::AsLongAsEstablished => format!(
                "{name} is {now}, below {ESTABLISHED} ({needed}); raising it, which leased \
                 connections need"
            ),
        }
    }
}

/// Returns all of them with what they have to be; those that are missing are left out.
#[must_use]
pub fn relaxed() -> BTreeMap<String, u32> {
    let needed = |it: Relaxed| Some((it.name.to_owned(), it.needed(read(it.name).ok()?).ok()?));
    RELAXED.into_iter().filter_map(needed).collect()
}

/// Reads all of them.
#[must_use]
pub fn look() -> BTreeMap<&'static str, Found> {
    RELAXED.into_iter().map(|it| (it.name, it.look())).collect()
}

/// A sysctl's value.
///
/// # Errors
/// If there is none: this kernel, or this namespace, has no conntrack.
pub fn read(name: &str) -> Result<u32> {
    let path = file(name);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!(
            "{} is missing: this kernel has no connection tracking (`modprobe nf_conntrack`), \
             or is older than 5.14",
            path.display()
        ),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    })?;
    text.trim().parse().with_context(|| format!("{} holds `{}`", path.display(), text.trim()))
}

/// Sets a sysctl.
///
/// # Errors
/// If the kernel refuses.
pub fn write(name: &str, value: u32) -> Result<()> {
    let path = file(name);
    fs::write(&path, value.to_string()).with_context(|| format!("setting {}", path.display()))
}

/// Says which sysctls are relaxed, and how to reset them, for when what they were before
/// is not recorded; `None` if none is.
#[must_use]
pub fn left_relaxed() -> Option<String> {
    let is_relaxed = |it: &Relaxed| {
        let found = it.look();
        found.value == Some(found.needed) && found.needed != it.default
    };
    let left: Vec<Relaxed> = RELAXED.into_iter().filter(is_relaxed).collect();
    (!left.is_empty()).then(|| unknown_before(&left))
}

fn unknown_before(left: &[Relaxed]) -> String {
    let names: Vec<&str> = left.iter().map(|it| it.name).collect();
    let command = |it: &Relaxed| format!("`sysctl -w net.netfilter.{}={}`", it.name, it.default);
    let commands: Vec<String> = left.iter().map(command).collect();
    format!(
        "{}: left as leases need them, because it is not recorded what they were before; if this \
         host had the kernel's defaults, run {}",
        names.join(", "),
        commands.join(" and ")
    )
}

/// Whether conntrack remembers a flow it sees only once per lease of `seconds`.
///
/// # Errors
/// If not, or if there is no conntrack: what to do.
pub fn check_lease(seconds: u32) -> Result<()> {
    judge_lease(seconds, read("nf_conntrack_udp_timeout")?, read("nf_conntrack_tcp_timeout_close")?)
}

/// A third: two packets that ask for renewal may be lost.
fn judge_lease(seconds: u32, udp: u32, close: u32) -> Result<()> {
    let longest = (udp / 3).min(close.saturating_sub(1));
    anyhow::ensure!(
        seconds <= longest,
        "a lease of {seconds} s outlasts conntrack's memory: it may be a third of \
         nf_conntrack_udp_timeout ({udp} s) and must be below nf_conntrack_tcp_timeout_close \
         ({close} s); {}",
        match longest {
            0 => "raise these sysctls".to_owned(),
            _ => format!("set leases.seconds to {longest} or less, or raise these sysctls"),
        }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_relaxed_is_named_with_its_command() {
        let text = unknown_before(&RELAXED);
        for Relaxed { name, default, .. } in RELAXED {
            let command = format!("`sysctl -w net.netfilter.{name}={default}`");
            assert!(text.contains(&command), "no {command} in {text}");
        }
    }

    #[test]
    fn a_lease_is_shorter_than_conntracks_memory() {
        assert!(judge_lease(5, 30, 10).is_ok());
        assert!(judge_lease(9, 30, 10).is_ok());
        for (seconds, udp, close) in [(9, 26, 10), (9, 30, 9), (5, 14, 10), (1, 2, 10)] {
            let error = judge_lease(seconds, udp, close).unwrap_err().to_string();
            assert!(error.contains("nf_conntrack_udp_timeout"), "{error}");
        }
        let error = judge_lease(5, 14, 10).unwrap_err().to_string();
        assert!(error.contains("set leases.seconds to 4 or less"), "{error}");
    }
}
