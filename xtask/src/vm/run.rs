//! `cargo xtask vm test`: boots until every kernel has a result.
//!
//! Its lines are those of libtest, which people and `cargo xtask test` read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use tunless_vm::{command_line::Job, report::Event, suites};

use super::{
    ALL_SUITES, TestArguments, directory,
    guest::{self, Ended},
    initramfs, kernels,
    panics::Report,
    qemu::Machine,
    verdict::{Progress, Verdict, judge},
};

/// How often a boot that died in the emulator is tried.
const BOOTS: u32 = 4;

/// Cases of all kernels.
#[derive(Default)]
struct Total {
    passed: u64,
    failed: u64,
}

/// Runs the suites on the kernels; an error if anything failed.
pub fn run(arguments: &TestArguments) -> Result<()> {
    guest::heed_interrupts()?;
    let mut total = Total::default();
    for kernel in arguments.kernel.list() {
        let installed = kernels::get(kernel, arguments.common.refresh)?;
        let initramfs = initramfs::get(&installed)?;
        for suite in suites::ALL.iter().map(|suite| suite.name) {
            if arguments.suite != ALL_SUITES && arguments.suite != suite {
                continue;
            }
            println!("\nkernel {}: suite {suite}", installed.release);
            let machine = Machine {
                image: installed.image.clone(),
                initramfs: initramfs.clone(),
                clock: arguments.common.clock(),
                job: Job { kernel, suite: Some(suite.to_owned()) },
            };
            run_suite(&format!("{suite}@{}", kernel.name()), &machine, &mut total)?;
        }
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    ensure!(total.failed == 0, "not everything passed");
    Ok(())
}

fn run_suite(name: &str, machine: &Machine, total: &mut Total) -> Result<()> {
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
    total.passed += passed;
    total.failed += failed;
    Ok(())
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
        progress.fatal = Some(format!("{why}; its console: {}", shown(&console)));
        return Ok(progress);
    }
    unreachable!("the last boot returns")
}

fn show(name: &str, event: &Event, since: Duration) {
    match event {
        Event::Hello { release } => {
            println!("{release} is up after {:.1} s", since.as_secs_f64());
        }
        // Printed when it ends: on one line, as libtest does.
        Event::Begin { .. } | Event::Done | Event::Fatal { .. } => {}
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
    Ok(format!("its text is kept in {}", shown(&path)))
}

/// The last boot's console.
fn console_path(name: &str) -> Result<PathBuf> {
    let place = directory().join("consoles");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(place.join(format!("{name}.log")))
}

/// As one would type it in the project's top level.
fn shown(path: &Path) -> String {
    let root = crate::workspace::root();
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}
