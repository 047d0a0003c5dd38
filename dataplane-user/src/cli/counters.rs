//! `tunless counters …`

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use dataplane_common::{Counter, Reason, Verdict};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Maps,
    exit::Exit,
    output::{self, Format, Row},
    rate::Rate,
    schema,
};

/// Which reasons are listed, and with what.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Options {
    /// Also those that counted nothing.
    #[arg(long)]
    all: bool,
    /// Only those for which packets are dropped.
    #[arg(long)]
    drops: bool,
    /// Also how many packets and bytes a second, measured for this long [default: 1s].
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "1s", value_parser = super::pause)]
    rate: Option<Duration>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct CounterItem {
    /// Why packets left the program so: `docs/counters.md` has what it means.
    #[schemars(extend("enum" = schema::reasons()))]
    reason: &'static str,
    /// The program that counts it.
    #[schemars(extend("enum" = schema::programs()))]
    program: &'static str,
    /// The program's hook.
    #[schemars(extend("enum" = schema::places()))]
    hook: &'static str,
    /// The program's direction.
    #[schemars(extend("enum" = schema::directions()))]
    direction: &'static str,
    /// What became of the packets.
    #[schemars(extend("enum" = schema::verdicts()))]
    verdict: &'static str,
    /// Packets since the counters were last flushed; a GSO or GRO packet counts as one.
    packets: u64,
    /// Bytes of these packets.
    bytes: u64,
    /// Only with `--rate`.
    #[serde(flatten)]
    rate: Option<Rate>,
    #[serde(skip)]
    caption: &'static str,
}

impl Row for CounterItem {
    const COLUMNS: &'static [&'static str] =
        &["REASON", "HOOK", "VERDICT", "PACKETS", "BYTES", "PACKETS/S", "BYTES/S", "MEANING"];

    fn columns(items: &[Self]) -> Vec<&'static str> {
        let has_rate = items.iter().any(|item| item.rate.is_some());
        let is_shown = |column: &&str| has_rate || !column.ends_with("/S");
        Self::COLUMNS.iter().copied().filter(is_shown).collect()
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.reason.into(),
            self.hook.into(),
            self.verdict.into(),
            self.packets.to_string(),
            self.bytes.to_string(),
        ];
        if let Some(rate) = self.rate {
            cells.push(format!("{:.1}", rate.packets_per_second));
            cells.push(format!("{:.0}", rate.bytes_per_second));
        }
        cells.push(self.caption.into());
        cells
    }
}

/// In the order a packet meets the reasons; programs get them all, but for `--drops`.
pub fn list(maps: &Maps, format: Format, options: Options) -> Result<Exit> {
    let mut items = Vec::new();
    let (before, began) = (look(maps)?, Instant::now());
    if let Some(time) = options.rate {
        thread::sleep(time);
    }
    let (now, time) = (look(maps)?, began.elapsed());
    for ((reason, before), counter) in Reason::ALL.iter().zip(before).zip(now) {
        let has_nothing = counter.packets == 0 && format.is_for_people() && !options.all;
        if has_nothing || (options.drops && reason.verdict() != Verdict::Dropped) {
            continue;
        }
        items.push(CounterItem {
            reason: reason.as_str(),
            program: reason.program().as_str(),
            hook: reason.program().hook(),
            direction: reason.direction().as_str(),
            verdict: reason.verdict().as_str(),
            packets: counter.packets,
            bytes: counter.bytes,
            rate: options.rate.map(|_| Rate::between(&before, &counter, time)),
            caption: reason.caption(),
        });
    }
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

/// Each reason's, in the order of [`Reason::ALL`].
fn look(maps: &Maps) -> Result<Vec<Counter>> {
    Reason::ALL.iter().map(|reason| maps.counter(*reason)).collect()
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Flushed {
    /// Always true.
    flushed: bool,
}

pub fn flush(maps: &mut Maps, format: Format) -> Result<Exit> {
    maps.flush_counters()?;
    output::done(format, &Flushed { flushed: true }, "all counters are zero")?;
    Ok(Exit::Ok)
}
