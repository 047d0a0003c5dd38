//! `tunless counters …`

use anyhow::Result;
use dataplane_common::Reason;
use serde::Serialize;

use crate::{
    bpf::Maps,
    exit::Exit,
    output::{self, Format, Row},
};

#[derive(Serialize)]
struct CounterItem {
    reason: &'static str,
    program: &'static str,
    direction: &'static str,
    verdict: &'static str,
    packets: u64,
    bytes: u64,
    #[serde(skip)]
    caption: &'static str,
}

impl Row for CounterItem {
    const COLUMNS: &'static [&'static str] =
        &["REASON", "PROGRAM", "DIRECTION", "VERDICT", "PACKETS", "BYTES", "MEANING"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reason.into(),
            self.program.into(),
            self.direction.into(),
            self.verdict.into(),
            self.packets.to_string(),
            self.bytes.to_string(),
            self.caption.into(),
        ]
    }
}

/// In the order a packet meets the reasons; programs get them all.
pub fn list(maps: &Maps, format: Format, all: bool) -> Result<Exit> {
    let mut items = Vec::new();
    for reason in Reason::ALL {
        let counter = maps.counter(*reason)?;
        if counter.packets == 0 && format == Format::Table && !all {
            continue;
        }
        items.push(CounterItem {
            reason: reason.as_str(),
            program: reason.program().as_str(),
            direction: reason.direction().as_str(),
            verdict: reason.verdict().as_str(),
            packets: counter.packets,
            bytes: counter.bytes,
            caption: reason.caption(),
        });
    }
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Flushed {
    flushed: bool,
}

pub fn flush(maps: &mut Maps, format: Format) -> Result<Exit> {
    maps.flush_counters()?;
    output::done(format, &Flushed { flushed: true }, "all counters are zero")?;
    Ok(Exit::Ok)
}
