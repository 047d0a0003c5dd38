//! Conntrack's sysctls, which are those of this network namespace.
//!
//! Of a leased flow conntrack sees a packet every few seconds. It must not take
//! that for an attack (`be_liberal`: the sequence numbers have run away; nor for
//! a stray reset, past 2 GiB, `ignore_invalid_rst`), and must not have forgotten
//! the flow by then. Both relax checks for every connection of the host.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, Result};

const DIRECTORY: &str = "/proc/sys/net/netfilter";

/// What has to be 1 while flows are leased.
pub const RELAXED: [&str; 2] =
    ["nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst"];

/// The same, as a table.
#[must_use]
pub fn relaxed() -> BTreeMap<String, u32> {
    RELAXED.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

/// A sysctl's value.
///
/// # Errors
/// If there is none: this kernel, or this namespace, has no conntrack.
pub fn read(name: &str) -> Result<u32> {
    let path = Path::new(DIRECTORY).join(name);
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
    let path = Path::new(DIRECTORY).join(name);
    fs::write(&path, value.to_string()).with_context(|| format!("setting {}", path.display()))
}

/// Says which sysctls are relaxed, and how to reset them, for when what they were before
/// is not recorded; `None` if none is.
#[must_use]
pub fn left_relaxed() -> Option<String> {
    let is_relaxed = |name: &&str| read(name).is_ok_and(|value| value == 1);
    let names: Vec<&str> = RELAXED.into_iter().filter(is_relaxed).collect();
    (!names.is_empty()).then(|| unknown_before(&names))
}

fn unknown_before(names: &[&str]) -> String {
    let commands: Vec<String> =
        names.iter().map(|name| format!("`sysctl -w net.netfilter.{name}=0`")).collect();
    format!(
        "{}: left at 1, because it is not recorded what they were before; if this host had the \
         kernel's default, run {}",
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
        for name in RELAXED {
            let command = format!("`sysctl -w net.netfilter.{name}=0`");
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
