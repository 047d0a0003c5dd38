//! What the unit's journal holds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One entry (`systemd.journal-fields(7)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who wrote it: `tunless`, or `systemd` about the unit.
    pub identifier: String,
    /// As syslog(3) numbers them: 3 error, 4 warning, 6 info.
    pub priority: u8,
    /// The text.
    pub message: String,
    /// When it was sent, by the realtime clock; of a line on standard error, when journald
    /// read it.
    pub at: Duration,
}

/// Reads what `journalctl --output=json` prints: an object on each line.
pub(super) fn parse(lines: &str) -> Result<Vec<Entry>> {
    lines
        .lines()
        .map(|line| {
            let fields = serde_json::from_str(line).context("journalctl printed no JSON")?;
            entry(&fields).with_context(|| format!("an entry lacks a field: {line}"))
        })
        .collect()
}

fn entry(fields: &Value) -> Option<Entry> {
    let sent = fields.get("_SOURCE_REALTIME_TIMESTAMP").unwrap_or(&fields["__REALTIME_TIMESTAMP"]);
    Some(Entry {
        identifier: fields["SYSLOG_IDENTIFIER"].as_str()?.to_owned(),
        priority: fields["PRIORITY"].as_str()?.parse().ok()?,
        message: text(&fields["MESSAGE"])?,
        at: Duration::from_micros(sent.as_str()?.parse().ok()?),
    })
}

/// A text with control characters is an array of its bytes.
fn text(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let bytes = value.as_array()?.iter().map(|byte| u8::try_from(byte.as_u64()?).ok());
    Some(String::from_utf8_lossy(&bytes.collect::<Option<Vec<_>>>()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let lines = r#"
{"SYSLOG_IDENTIFIER":"tunless","PRIORITY":"4","MESSAGE":"a warning","__REALTIME_TIMESTAMP":"7"}
{"SYSLOG_IDENTIFIER":"systemd","PRIORITY":"6","MESSAGE":[27,91,109],"__REALTIME_TIMESTAMP":"9","_SOURCE_REALTIME_TIMESTAMP":"8"}"#;
        let entries = parse(lines.trim_start()).unwrap();
        assert_eq!(entries[0].at, Duration::from_micros(7));
        assert_eq!(entries[1].at, Duration::from_micros(8));
        assert_eq!(entries[0].priority, 4);
        assert_eq!(entries[0].message, "a warning");
        assert_eq!(entries[1].message, "\u{1b}[m");
        assert!(parse("{}").is_err());
        assert!(parse("-- No entries --").is_err());
        assert_eq!(parse("").unwrap(), []);
    }
}
