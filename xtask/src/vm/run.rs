//! `cargo xtask vm test`: boots until every kernel has a result.
//!
//! Its lines are those of libtest, which people and `cargo xtask test` read.

use std::{
    fs, panic,
    path::PathBuf,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use tunless_vm::{
    checks::Outcome,
    command_line::Job,
    report::Event,
    suites::{self, Suite},
};

use super::{
    ALL_SUITES, Kernels, TestArguments, directory,
    emulator::Emulator,
    guest::{self, Ended},
    initramfs,
    kernels::{self, Installed},
    matrix::{self, Matrix},
    panics::Report,
    qemu::Machine,
    verdict::{Progress, Verdict, judge},
};
use crate::{interrupt, workspace};

/// How often a boot that died in the emulator is tried.
const BOOTS: u32 = 4;

/// Cases of all kernels.
#[derive(Default)]
struct Total {
    passed: u64,
    failed: u64,
}

/// Runs the suites on the kernels; an error if anything failed.
pub fn run(emulator: &Emulator, arguments: &TestArguments) -> Result<()> {
    let chosen: Vec<&Suite> =
        suites::ALL.iter().filter(|suite| is_chosen(arguments, suite)).collect();
    ensure!(
        !arguments.write_docs || arguments.kernel == Kernels::All,
        "a page of some of the kernels would look like the whole: leave `--kernel` out"
    );
    interrupt::watch()?;
    let mut guests = Vec::new();
    for kernel in arguments.kernel.list() {
        let installed = kernels::get(kernel, arguments.common.refresh)?;
        let initramfs = initramfs::get(&installed, &[])?;
        guests.push((kernel, installed, initramfs));
    }
    let mut total = Total::default();
    let mut matrices: Vec<Matrix> = chosen.iter().map(|suite| Matrix::new(suite)).collect();
    for guests in guests.chunks(arguments.jobs.max(1)) {
        let run_one = |(kernel, installed, initramfs): &(_, Installed, PathBuf)| {
            let run_one = |suite: &&Suite| {
                let job = Job { kernel: *kernel, suite: Some(suite.name.to_owned()) };
                let clock = arguments.common.clock();
                let (image, initramfs) = (installed.image.clone(), initramfs.clone());
                let emulator = emulator.clone();
                run_suite(
                    &installed.release,
                    &Machine { emulator, image, initramfs, clock, profile: None, job },
                )
            };
            chosen.iter().map(run_one).collect::<Result<Vec<_>>>()
        };
        // Those that run together are told of in turn.
        let results: Vec<_> = thread::scope(|scope| {
            let start = |guest| scope.spawn(move || run_one(guest));
            let threads: Vec<_> = guests.iter().map(start).collect();
            threads.into_iter().map(ScopedJoinHandle::join).collect()
        });
        for (result, (_, installed, _)) in results.into_iter().zip(guests) {
            let result = result.unwrap_or_else(|payload| panic::resume_unwind(payload))?;
            for (progress, matrix) in result.iter().zip(&mut matrices) {
                total.passed += progress.passed;
                total.failed += progress.failed.len() as u64;
                matrix.add(&installed.release, &progress.checks, &progress.failed);
            }
        }
    }
    for matrix in matrices.iter().filter(|matrix| !matrix.is_empty()) {
        print!("\n{}", matrix.text());
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    ensure!(total.failed == 0, "not everything passed");
    if arguments.write_docs {
        for matrix in matrices.iter().filter(|matrix| !matrix.is_empty()) {
            println!("wrote {}", matrix::write_page(matrix)?);
        }
    }
    Ok(())
}

fn is_chosen(arguments: &TestArguments, suite: &Suite) -> bool {
    arguments.suite.iter().any(|name| name == ALL_SUITES || name == suite.name)
}

/// Runs the machine's suite, and tells how it went.
pub fn run_suite(release: &str, machine: &Machine) -> Result<Progress> {
    let Job { kernel, suite } = &machine.job;
    let suite = suite.as_deref().unwrap_or_default();
    println!("\nkernel {release}: suite {suite}");
    let name = &format!("{suite}@{}", kernel.name());
    let started = Instant::now();
    let mut progress = until_result(name, machine)?;
    if let Some(why) = progress.fatal.take() {
        println!("test {name} ... FAILED\n  {}", why.replace('\n', "\n  "));
        progress.failed.push(why);
    }
    let (passed, failed) = (progress.passed, progress.failed.len() as u64);
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {word}. {passed} passed; {failed} failed; 0 ignored; finished in {:.1}s",
        started.elapsed().as_secs_f64()
    );
    Ok(progress)
}

/// Boots until the guest has not died of the emulator.
fn until_result(name: &str, machine: &Machine) -> Result<Progress> {
    let console = console_path(name)?;
    for boot in 1.. {
        let mut progress = Progress::default();
        let started = Instant::now();
        let ended = guest::run(machine, &console, |event| {
            progress.take(&event);
            show(name, &event, started.elapsed());
        })?;
        let report = Report::find(&ended.console);
        let verdict = judge(&progress, &ended, report.as_ref());
        let why = match verdict {
            Verdict::Cases => {
                if let Some(warning) = &report {
                    println!(
                        "note: the kernel warned, outside of tunless; {}",
                        keep(name, warning)?
                    );
                }
                return Ok(progress);
            }
            Verdict::Failed(why) => why,
            Verdict::Emulator(why) if boot < BOOTS => {
                println!("the guest died in the emulator, outside of tunless: {why}");
                print_evidence(name, &ended, report.as_ref())?;
                println!("boot {} of at most {BOOTS}, from the first case on", boot + 1);
                continue;
            }
            Verdict::Emulator(why) => format!("died in the emulator {BOOTS} times: {why}"),
        };
        print_evidence(name, &ended, report.as_ref())?;
        progress.fatal = Some(format!("{why}; its console: {}", workspace::shown(&console)));
        return Ok(progress);
    }
    unreachable!("the last boot returns")
}

fn show(name: &str, event: &Event, since: Duration) {
    match event {
        Event::Hello { release } => {
            println!("{release} is up after {:.1} s", since.as_secs_f64());
        }
        // Printed when it ends: on one line, as libtest does. Figures make a table.
        Event::Begin { .. }
        | Event::Figure { .. }
        | Event::TestRun { .. }
        | Event::Profiled { .. }
        | Event::Done
        | Event::Fatal { .. } => {}
        Event::Check { check, .. } => {
            // Failures are told at the end of the case, the rest is in the table.
            if let Outcome::Limited { why } = &check.outcome {
                println!("  {}: limited: {why}", check.name);
            }
        }
        Event::End { case, failure, .. } => match failure {
            None => println!("test {name}::{case} ... ok"),
            Some(why) => {
                println!("test {name}::{case} ... FAILED");
                println!("  {}", why.replace('\n', "\n  "));
            }
        },
    }
}

/// Prints what there is to see of a death, and keeps what the kernel said.
fn print_evidence(name: &str, ended: &Ended, report: Option<&Report>) -> Result<()> {
    match report {
        Some(report) => {
            println!("{}", indented(report.text.lines()));
            println!("{}", keep(name, report)?);
        }
        None => {
            let lines: Vec<&str> = ended.console.lines().collect();
            println!("the console's end:");
            println!("{}", indented(lines[lines.len().saturating_sub(20)..].iter().copied()));
        }
    }
    Ok(())
}

fn indented<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// Keeps a report; says where.
fn keep(name: &str, report: &Report) -> Result<String> {
    let place = directory().join("panics");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let path = place.join(format!("{name}-{}.txt", since.as_millis()));
    fs::write(&path, &report.text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("its text is kept in {}", workspace::shown(&path)))
}

/// The last boot's console.
fn console_path(name: &str) -> Result<PathBuf> {
    let place = directory().join("consoles");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(place.join(format!("{name}.log")))
}
