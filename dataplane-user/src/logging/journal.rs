//! systemd's journal: whether stderr leads there, and its native protocol.

use std::{env, io};

use nix::sys::stat::fstat;
use tracing_journald::{Layer, Priority, PriorityMappings};

/// Returns whether stderr is the journal: systemd writes which stream that is into
/// `JOURNAL_STREAM` (systemd.exec(5)). The variable alone says little: a shell inherits
/// it, and redirects.
pub fn is_stderr() -> bool {
    let Ok(stderr) = fstat(io::stderr()) else { return false };
    let stream = env::var("JOURNAL_STREAM");
    stream.is_ok_and(|stream| names(&stream, stderr.st_dev, stderr.st_ino))
}

/// Whether `JOURNAL_STREAM` names this device and inode.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    let Some((found_device, found_inode)) = stream.split_once(':') else { return false };
    found_device.parse() == Ok(device) && found_inode.parse() == Ok(inode)
}

/// Opens the journal's socket.
///
/// # Errors
/// If it cannot be reached from here.
pub fn layer() -> io::Result<Layer> {
    let priorities = PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    };
    let layer = Layer::new()?.with_syslog_identifier("tunless".to_owned());
    Ok(layer.with_priority_mappings(priorities))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_is_the_journal() {
        assert!(names("9:12345", 9, 12345));
        for other in ["9:12346", "8:12345", "12345", "", ":", "9:", "x:12345", "9:12345:1"] {
            assert!(!names(other, 9, 12345), "{other}");
        }
    }
}
