//! The guest's report: one JSON object per line, on a serial port of its own.
//!
//! Not on the console: there the kernel interrupts whoever speaks.

use std::{fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use crate::{
    checks::Check,
    figures::{Figure, Symbols, TestRun},
};

/// The serial port, inside the guest.
const PORT: &str = "/dev/ttyS1";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// User space is up.
    Hello {
        /// As `uname -r` says.
        release: String,
    },
    /// A case begins.
    Begin {
        /// Its name.
        case: String,
        /// Whether our programs run in the kernel from here on.
        loads_tunless: bool,
    },
    /// The case that began last has found something out.
    Check {
        /// Its name.
        case: String,
        /// What.
        check: Check,
    },
    /// The case that began last has measured something.
    Figure {
        /// Its name.
        case: String,
        /// What.
        figure: Figure,
    },
    /// The case that began last has run a program by itself.
    TestRun {
        /// Its name.
        case: String,
        /// What it took.
        run: TestRun,
    },
    /// The case that began last was profiled.
    Profiled {
        /// Its name.
        case: String,
        /// What the profile needs to be read.
        symbols: Symbols,
    },
    /// The case that began last has ended.
    End {
        /// Its name.
        case: String,
        /// Why it failed; none if it passed.
        failure: Option<String>,
        /// How long it took.
        seconds: f64,
    },
    /// All cases have ended.
    Done,
    /// No case can run (any more).
    Fatal {
        /// Why.
        why: String,
    },
}

impl Event {
    /// The event in a line of the report; none if it is something else, as what
    /// firmware may print on the port.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

/// The guest's end of the serial port.
#[derive(Debug)]
pub struct Reporter(File);

impl Reporter {
    /// Opens the port.
    pub fn open() -> Result<Self> {
        let file = File::options()
            .write(true)
            .open(Path::new(PORT))
            .with_context(|| format!("cannot open {PORT}, the serial port of the report"))?;
        // A terminal would turn every \n into \r\n, and more.
        let mut settings = tcgetattr(&file).with_context(|| format!("{PORT} is no terminal"))?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings)
            .with_context(|| format!("cannot set {PORT} up"))?;
        Ok(Self(file))
    }

    /// Sends one event.
    pub fn send(&mut self, event: &Event) -> Result<()> {
        let line = serde_json::to_string(event).context("an event that is no JSON")?;
        // One write: another process has the port open, too.
        self.0.write_all(format!("{line}\n").as_bytes()).context("cannot write the report")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Outcome;

    #[test]
    fn events_survive_the_wire() {
        for event in [
            Event::Hello { release: "6.12.1".into() },
            Event::Begin { case: "a_case".into(), loads_tunless: true },
            Event::Check {
                case: "a_case".into(),
                check: Check { name: "ping".into(), outcome: Outcome::good("ttl 62") },
            },
            Event::End { case: "a_case".into(), failure: Some("two\nlines".into()), seconds: 1.5 },
            Event::Done,
        ] {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Event::parse(&format!("{line}\r")), Some(event));
        }
    }

    #[test]
    fn other_lines_are_no_events() {
        for line in ["", "SeaBIOS (version 1.16)", "{", "{\"event\":\"else\"}", "[1]"] {
            assert_eq!(Event::parse(line), None, "{line}");
        }
    }
}
