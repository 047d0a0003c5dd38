//! What the guest is to do, told on the kernel's command line.

use std::fs;

use anyhow::{Context as _, Result};

use crate::Kernel;

const KERNEL: &str = "tunless.kernel=";
const SUITE: &str = "tunless.suite=";

/// What the guest is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The kernel that the host meant to boot.
    pub kernel: Kernel,
    /// The suite to run; none for a shell.
    pub suite: Option<String>,
}

impl Job {
    /// For the end of the kernel's command line.
    #[must_use]
    pub fn arguments(&self) -> String {
        let mut text = format!("{KERNEL}{}", self.kernel.name());
        if let Some(suite) = &self.suite {
            text.push_str(&format!(" {SUITE}{suite}"));
        }
        text
    }

    /// The job of the guest that we are in.
    pub fn from_kernel() -> Result<Self> {
        let path = "/proc/cmdline";
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| {
            format!("{path} names no kernel as {KERNEL}…: boot by `cargo xtask vm`")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key| text.split_whitespace().find_map(|word| word.strip_prefix(key));
        let kernel = Kernel::from_name(value(KERNEL)?)?;
        Some(Self { kernel, suite: value(SUITE).map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_writes_the_guest_reads() {
        for suite in [None, Some("smoke".to_owned())] {
            let job = Job { kernel: Kernel::V6_12, suite };
            let line = format!("console=ttyS0 panic=-1 {}\n", job.arguments());
            assert_eq!(Job::parse(&line), Some(job));
        }
        assert_eq!(Job::parse("console=ttyS0 tunless.kernel=5.10"), None);
        assert_eq!(Job::parse(""), None);
    }
}
