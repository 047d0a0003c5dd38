//! Whether this process may do what root may, asked before anything is looked at:
//! what is forbidden must not be reported as absent.

use std::io;

use anyhow::{Error, Result, bail};
use nix::unistd::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

/// What every command about pins, programs and the network needs of the kernel.
const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// Fails unless this process is root's, or has the capabilities of one.
///
/// # Errors
/// With what to do.
pub fn require() -> Result<()> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if !suffices(is_root(), effective) {
        bail!("run as root: only root may look at and change eBPF programs, maps and pins");
    }
    Ok(())
}

/// Root without capabilities is left to what the kernel answers: files are root's all
/// the same.
fn suffices(is_root: bool, effective: CapabilitySet) -> bool {
    is_root || effective.contains(NEEDED)
}

/// Puts "run as root" before an error that comes from a refused permission, unless root
/// met it.
#[must_use]
pub fn explain(error: Error) -> Error {
    explain_to(is_root(), error)
}

fn explain_to(is_root: bool, error: Error) -> Error {
    if !is_root && is_forbidden(&error) { error.context("run as root") } else { error }
}

fn is_forbidden(error: &Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn root_or_its_capabilities() {
        assert!(suffices(true, CapabilitySet::empty()));
        assert!(suffices(false, NEEDED | CapabilitySet::NET_RAW));
        assert!(!suffices(false, CapabilitySet::BPF));
        assert!(!suffices(false, CapabilitySet::empty()));
    }

    #[test]
    fn only_a_refused_permission_asks_for_root() {
        let failed = |number: i32| -> Error {
            let outcome: Result<(), _> = Err(io::Error::from_raw_os_error(number));
            outcome.context("opening /sys/fs/bpf/tunless").unwrap_err()
        };
        for number in [libc::EACCES, libc::EPERM] {
            let text = format!("{:#}", explain_to(false, failed(number)));
            assert!(text.starts_with("run as root: opening /sys/fs/bpf/tunless: "), "{text}");
            let text = format!("{:#}", explain_to(true, failed(number)));
            assert!(text.starts_with("opening"), "{text}");
        }
        let text = format!("{:#}", explain_to(false, failed(libc::ENOENT)));
        assert!(text.starts_with("opening"), "{text}");
    }
}
