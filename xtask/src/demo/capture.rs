//! `tcpdump` as a person uses it: in a second window, started first.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    page::Page,
    shell::{Place, Running},
};

/// How long the packets may take after what caused them is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// A `tcpdump` that listens.
pub struct Capture {
    line: String,
    running: Running,
}

impl Capture {
    /// Starts it; it misses nothing from when this returns. It has to end by
    /// itself, so `options` hold `-c`.
    pub fn start(page: &Page, place: &Place, options: &str) -> Result<Self> {
        let line = format!("tcpdump {options}");
        page.typed(&place.name, &format!("{line} &"));
        let mut running = place.start(&format!("exec {line}"))?;
        // It says so after its socket is bound and its filter set.
        running.wait_for("listening on")?;
        Ok(Self { line, running })
    }

    /// Waits for its packets; prints and returns what it printed.
    pub fn finish(self, page: &Page) -> Result<String> {
        let said = self.running.finish_within(PATIENCE)?;
        let line = &self.line;
        let said = said.with_context(|| format!("`{line}` did not see its packets"))?;
        page.remark("what tcpdump printed meanwhile:");
        page.printed(&said.text);
        ensure!(said.success, "`{line}` failed");
        Ok(said.text)
    }
}
