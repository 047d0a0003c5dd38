//! `tunless routes diff`: sources, desired, map and kernel side by side.
//!
//! It asks the sources itself and reads maps and kernel back, so that it finds what
//! the daemon has missed, and works while there is none.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::{
    daemon::{
        self,
        survey::{Difference, Survey},
    },
    exit::Exit,
    output::{self, Format, Row},
};

impl Row for Difference {
    const COLUMNS: &'static [&'static str] = &["CIDR", "WHERE", "WANTED", "FOUND"];

    fn cells(&self) -> Vec<String> {
        vec![self.cidr.to_string(), self.place.clone(), self.wanted.clone(), self.found.clone()]
    }
}

/// Prints every difference; exit code 3 if there is any, or a source does not answer.
pub async fn diff(
    config: &Path,
    bpffs: Option<&Path>,
    format: Format,
    timeout: Duration,
) -> Result<Exit> {
    let Survey { differences, silent, alarms } =
        daemon::survey::survey(config, bpffs, timeout).await?;
    for source in &silent {
        eprintln!("{source}");
    }
    for alarm in &alarms {
        eprintln!("{alarm}");
    }
    output::list(format, &differences)?;
    let equal = differences.is_empty() && silent.is_empty() && alarms.is_empty();
    Ok(if equal { Exit::Ok } else { Exit::No })
}
