//! `cargo xtask bench deterministic`: every way from pod to pod, in the emulator.
//!
//! The guest's clock counts instructions, so that a figure is the same whatever
//! else this machine does. Not the same as on hardware: every instruction takes as
//! long as every other, and memory nothing. It tells how much work there is.
//!
//! ```text
//! tunless_vm::bench    inside: one path per boot
//! figures              outside: what each boot measured, kept
//! rows ─ table         ratios to tunl0, on the same kernel
//! chart                the same as a picture, docs/bench.svg
//! ```

mod chart;
mod figures;
mod rows;
mod table;

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Result, ensure};
use clap::Args;
use tunless_vm::{Kernel, bench};

use super::results::Row;
use crate::vm::measure::Measuring;

/// Measure tunless beside tunl0, VXLAN, plain routing and flowtables, in the emulator.
///
/// Each path boots once on 6.12, those that compare with flowtables on 7.x, too. Its
/// clock counts instructions: two runs agree, also on a busy machine. Shown are
/// ratios to tunl0 on the same kernel; what was measured stays in target/bench, so that
/// one path can be measured again without the others.
#[derive(Args, Default)]
pub struct Arguments {
    /// Only this path; may be given more than once. The others are as last measured.
    #[arg(long, value_name = "NAME", value_parser = names())]
    path: Vec<String>,
    /// Only on this kernel.
    #[arg(long, value_name = "KERNEL", value_parser = kernel)]
    kernel: Option<Kernel>,
    /// How many boots at a time; each keeps one processor busy [default: one per
    /// processor].
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
    /// Write the chart to docs/bench.svg, too.
    #[arg(long)]
    write_docs: bool,
}

/// What paths have in common, measured alone.
const BASE: &str = "base";
/// Flowtables know IP-in-IP there; the rest is there to compare with.
const ON_7: [&str; 7] =
    ["limit", "tunl0", "flowtable-ipip", "flowtable-tunl0", "off", "verified", "trusted"];

/// One boot.
type Boot = (Kernel, &'static str);

/// Measures, prints, and returns the rows.
pub fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let boots: VecDeque<Boot> =
        all_boots().into_iter().filter(|boot| arguments.chooses(*boot)).collect();
    ensure!(!boots.is_empty(), "there is no such path on that kernel");
    let kernels: Vec<Kernel> = Kernel::ALL
        .into_iter()
        .filter(|kernel| boots.iter().any(|(of_boot, _)| of_boot == kernel))
        .collect();
    let measuring = Measuring::prepare(&kernels)?;
    let jobs =
        arguments.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let boots = Mutex::new(boots);
    let work = || -> Result<()> {
        loop {
            let next = boots.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((kernel, path)) = next else { return Ok(()) };
            let (release, figures) = measuring.figures(kernel, &format!("bench-{path}"))?;
            figures::keep(kernel, path, &release, figures)?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    })?;

    let kept = figures::kept(&all_boots())?;
    let rows = rows::of(&kept);
    print!("\n{}", table::text(&rows));
    if arguments.write_docs {
        println!("\nwrote {}", chart::write(&rows)?);
    }
    Ok(rows.into_iter().map(Row::Deterministic).collect())
}

impl Arguments {
    fn chooses(&self, (kernel, path): Boot) -> bool {
        (self.path.is_empty() || self.path.iter().any(|chosen| chosen == path))
            && self.kernel.is_none_or(|chosen| chosen == kernel)
    }
}

fn all_boots() -> Vec<Boot> {
    let on = |kernel, path: &&str| {
        *path == BASE || bench::paths(kernel).any(|of_kernel| of_kernel.name == *path)
    };
    let on_6_12 = names().into_iter().filter(|path| on(Kernel::V6_12, path));
    let on_7 = [BASE].into_iter().chain(ON_7).filter(|path| on(Kernel::V7, path));
    on_6_12.map(|path| (Kernel::V6_12, path)).chain(on_7.map(|path| (Kernel::V7, path))).collect()
}

fn names() -> Vec<&'static str> {
    [BASE].into_iter().chain(bench::paths(Kernel::V7).map(|path| path.name)).collect()
}

/// The kernel of that name, if paths are compared on it.
pub fn kernel(name: &str) -> Result<Kernel, String> {
    let of_boots = Kernel::from_name(name).filter(|kernel| *kernel != Kernel::V6_1);
    of_boots.ok_or_else(|| "one of 6.12, 7.x".to_owned())
}
