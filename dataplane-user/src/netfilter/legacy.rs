//! Rules of the old kernel interface, iptables-legacy. nftables does not list them, the kernel
//! announces no change of them, and only its own tool reads them.

use std::{fs, io, process::Command};

/// Returns what `iptables-legacy-save` prints of a table, or of all; `None` if the interface, or that
/// table, is not in use. Asking the tool about a table that is not there would make it.
///
/// # Errors
/// In words: why it cannot be read.
pub fn saved(table: Option<&str>) -> Result<Option<String>, String> {
    const TABLES: &str = "/proc/net/ip_tables_names";
    let tables = match fs::read_to_string(TABLES) {
        // Absent without the module: nothing uses it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{TABLES}: {error}")),
        Ok(tables) => tables,
    };
    let is_asked = |name: &str| !name.is_empty() && table.is_none_or(|table| table == name);
    if !tables.lines().map(str::trim).any(is_asked) {
        return Ok(None);
    }
    let mut command = Command::new("iptables-legacy-save");
    command.args(table.into_iter().flat_map(|table| ["-t", table]));
    let output = command.output().map_err(|error| {
        format!("iptables-legacy is in use here, and iptables-legacy-save: {error}")
    })?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("iptables-legacy-save failed: {}", error.trim()));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
