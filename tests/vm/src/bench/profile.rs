//! Which functions of the kernel the packets of one flow keep busy: what the emulator
//! counts between two marks, for [`tunless_profiler`], and their names.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};

use super::{ENDPOINTS, path::Path, set, udp};
use crate::{
    figures::Symbols,
    suites::{Case, Guest, Suite},
};

/// The suite that profiles a path.
pub fn suite(path: &Path) -> Suite {
    let cases = |_| {
        let case = |name, run| Case { name, loads_tunless: true, run };
        vec![
            case("no endpoints", |guest| profile(guest, ENDPOINTS[0])),
            case("50 endpoints", |guest| profile(guest, ENDPOINTS[1])),
        ]
    };
    Suite { name: path.profile, about: path.about, parts: &[], cases }
}

fn profile(guest: &Guest, endpoints: u32) -> Result<()> {
    let stage = set(guest, endpoints)?;
    let packets = udp::profile(&stage)?;
    guest.figures.note_symbols(Symbols { packets, text: symbols()? });
    stage.clear()
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
