//! What each program takes for one packet by itself: a line of JSON for each figure.
//!
//! `cargo xtask bench cost` runs it on this machine and, where the clock counts
//! instructions, in the emulator.

use std::{
    env,
    io::{self, Write as _},
};

use tunless_tests::cost;

fn main() -> io::Result<()> {
    let runs = runs().unwrap_or_else(|| {
        eprintln!("usage: cost --runs NUMBER");
        std::process::exit(2)
    });
    let mut out = io::stdout().lock();
    for figure in &cost::measure(runs) {
        writeln!(out, "{}", serde_json::to_string(figure)?)?;
    }
    Ok(())
}

fn runs() -> Option<usize> {
    let mut arguments = env::args().skip(1);
    let (name, value) = (arguments.next()?, arguments.next()?);
    let runs = value.parse().ok().filter(|runs| *runs > 0)?;
    (name == "--runs" && arguments.next().is_none()).then_some(runs)
}
