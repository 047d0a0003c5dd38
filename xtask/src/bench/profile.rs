//! `cargo xtask bench profile`: which functions a packet keeps busy, and for how long.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tunless_vm::{Kernel, bench, figures::Symbols};

use crate::{vm::measure::Measuring, workspace};

/// Show which of the kernel's functions a path's packets keep busy, in the emulator.
///
/// Counts every instruction that is executed from the first to the last of 20,000
/// packets of 64-byte UDP, of 64 MiB of TCP and of 500 connections with one request each, for none
/// and for 50 endpoints; and of 500 such connections by a Service. What is printed is instructions per
/// packet, MiB or connection, by function, and all of it is left in target/bench/profile.
#[derive(Args)]
pub struct Arguments {
    /// The path.
    #[arg(value_name = "PATH", value_parser = names())]
    path: String,
    /// On this kernel.
    #[arg(long, value_name = "KERNEL", value_parser = super::deterministic::kernel, default_value = "6.12")]
    kernel: Kernel,
    /// How many functions to print.
    #[arg(long, value_name = "NUMBER", default_value_t = 25)]
    top: usize,
}

/// Boots, counts, prints.
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { path, kernel, top } = arguments;
    let out = workspace::root().join("target/bench/profile");
    let raw = out.join(format!("{}-{path}", kernel.name()));
    fs::create_dir_all(&raw).with_context(|| format!("cannot make {}", raw.display()))?;
    let measuring = Measuring::prepare(&[*kernel])?;
    let suite = format!("profile-{path}");
    let (release, profiled) = measuring.profile(*kernel, &suite, &raw)?;
    ensure!(!profiled.is_empty(), "{path} was not profiled");
    for (number, (case, symbols)) in profiled.iter().enumerate() {
        let text = text(&raw.join((number + 1).to_string()), symbols)?;
        let case = case.replace(", ", "-").replace(' ', "-");
        let file = out.join(format!("{}-{path}-{case}.txt", kernel.name()));
        fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("\nkernel {release}: {path}, {case}: instructions per packet, MiB or connection");
        text.lines().take(*top + 1).for_each(|line| println!("{line}"));
        println!("all of them: {}", workspace::shown(&file));
    }
    Ok(())
}

/// The functions, the busiest first, and a line for all.
fn text(stretch: &Path, Symbols { units, text }: &Symbols) -> Result<String> {
    let blocks = fs::read_to_string(stretch)
        .with_context(|| format!("the profiler left no {}", stretch.display()))?;
    let functions = by_function(&blocks, text)?;
    let total: u64 = functions.values().sum();
    let mut sorted: Vec<_> = functions.into_iter().collect();
    sorted.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
    let mut text = String::new();
    for (name, executed) in [("all", total)].into_iter().chain(sorted) {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        writeln!(text, "{:>10.1} {name}", executed as f64 / *units as f64)?;
    }
    Ok(text)
}

/// Instructions by function. What is below the kernel's half is a process's.
fn by_function<'a>(blocks: &str, symbols: &'a str) -> Result<BTreeMap<&'a str, u64>> {
    const KERNEL: u64 = 1 << 63;
    let mut starts = BTreeMap::new();
    for line in symbols.lines() {
        let (address, name) = line.split_once(' ').context("a symbol without a name")?;
        starts.entry(u64::from_str_radix(address, 16)?).or_insert(name);
    }
    let mut functions = BTreeMap::new();
    for line in blocks.lines() {
        let (address, executed) = line.split_once(' ').context("a block without a count")?;
        let address = u64::from_str_radix(address, 16)?;
        let name = match starts.range(..=address).next_back() {
            Some((_, name)) if address >= KERNEL => name,
            _ => "(user space)",
        };
        *functions.entry(name).or_default() += executed.parse::<u64>()?;
    }
    Ok(functions)
}

fn names() -> Vec<&'static str> {
    bench::paths(Kernel::V7).map(|path| path.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_belongs_to_the_function_before_it() {
        let symbols = "ffffffff81000000 first\nffffffff81000100 second\nffffffff81000100 alias\n";
        let blocks = "ffffffff81000000 3\nffffffff810000ff 4\nffffffff81000100 5\n7f0000001000 6\n";
        let expected = BTreeMap::from([("first", 7), ("second", 5), ("(user space)", 6)]);
        assert_eq!(by_function(blocks, symbols).unwrap(), expected);
        assert!(by_function("nonsense", symbols).is_err());
    }
}
