//! Which functions of the kernel a load keeps busy: what the emulator counts between two
//! marks, for [`tunless_profiler`], and their names.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use super::{ENDPOINTS, path::Path, set, stage::Stage, tcp, udp};
use crate::{
    figures::Symbols,
    suites::{Case, Guest, Suite},
};

/// The suite that profiles a path.
pub fn suite(path: &Path) -> Suite {
    let cases = |_| {
        let case = |name, run| Case { name, loads_tunless: true, run };
        vec![
            case("udp64, no endpoints", |guest| profile(guest, ENDPOINTS[0], packets)),
            case("udp64, 50 endpoints", |guest| profile(guest, ENDPOINTS[1], packets)),
            case("tcp_bulk, no endpoints", |guest| profile(guest, ENDPOINTS[0], bulk)),
            case("tcp_bulk, 50 endpoints", |guest| profile(guest, ENDPOINTS[1], bulk)),
            case("tcp_crr, no endpoints", |guest| profile(guest, ENDPOINTS[0], connections)),
            case("tcp_crr, 50 endpoints", |guest| profile(guest, ENDPOINTS[1], connections)),
            case("service-crr, no endpoints", |guest| profile(guest, ENDPOINTS[0], by_service)),
        ]
    };
    Suite { name: path.profile, about: path.about, parts: &[], cases }
}

/// `load` says how many of its units went by between the marks.
fn profile(guest: &Guest, endpoints: u32, load: fn(&Stage) -> Result<Option<u64>>) -> Result<()> {
    let stage = set(guest, endpoints)?;
    if let Some(units) = load(&stage)? {
        guest.figures.note_symbols(Symbols { units, text: symbols()? });
    }
    stage.clear()
}

fn packets(stage: &Stage) -> Result<Option<u64>> {
    udp::profile(stage).map(Some)
}

fn bulk(stage: &Stage) -> Result<Option<u64>> {
    tcp(stage, "tcp_bulk")
}

fn connections(stage: &Stage) -> Result<Option<u64>> {
    tcp(stage, "tcp_crr")
}

fn by_service(stage: &Stage) -> Result<Option<u64>> {
    if !stage.path.carries_services() {
        return Ok(None);
    }
    tcp(stage, "service-crr")
}

fn tcp(stage: &Stage, load: &str) -> Result<Option<u64>> {
    let carried = stage.path.carries_tcp_beside(stage.endpoints);
    carried.then(|| tcp::profile(stage, load)).transpose()
}

/// Those of the programs, too, which is why this is asked while they run.
fn symbols() -> Result<String> {
    let file = "/proc/kallsyms";
    let all = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let mut text = String::new();
    for line in all.lines() {
        let mut words = line.split_whitespace();
        let (Some(address), Some("t" | "T" | "W" | "w"), Some(name)) =
            (words.next(), words.next(), words.next())
        else {
            continue;
        };
        writeln!(text, "{address} {name}")?;
    }
    Ok(text)
}
