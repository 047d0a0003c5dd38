//! One boot: started, listened to, and ended, one way or another.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tunless_vm::{report::Event, runner::CASE_LIMIT};

use super::qemu::{Clock, Machine, Serial};
use crate::interrupt;

const POLL: Duration = Duration::from_millis(100);

/// How long a guest may say nothing: longer than a case may take, as the guest
/// ends those itself.
const SILENCE: Duration = Duration::from_secs(CASE_LIMIT.as_secs() + 30);
/// How much longer that is where a second of the guest's takes several of ours.
const SLOWER: u32 = 10;

/// How a guest came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off, or its kernel panicked.
    Off,
    /// We killed it: it said nothing for too long.
    Silent,
}

/// A guest that has ended.
pub struct Ended {
    /// How.
    pub end: End,
    /// All that its kernel printed.
    pub console: String,
    /// All that the emulator had to say.
    pub emulator: String,
}

/// Boots the machine and gives each event to `on_event`, until it is off.
pub fn run(machine: &Machine, console: &Path, mut on_event: impl FnMut(Event)) -> Result<Ended> {
    // What an earlier boot left would count as this one's.
    fs::write(console, "").with_context(|| format!("cannot write {}", console.display()))?;
    let mut emulator = Emulator::start(&mut machine.command(Serial::Report { console }))?;
    let (sender, lines) = mpsc::channel();
    let output = emulator.0.stdout.take().context("the emulator's output is not piped")?;
    thread::spawn(move || read_lines(output, &sender));
    let errors = emulator.0.stderr.take().context("the emulator's errors are not piped")?;
    let errors = thread::spawn(move || read_all(errors));

    let silence = match machine.clock {
        Clock::Host => SILENCE,
        Clock::Instructions => SILENCE * SLOWER,
    };
    let mut heard = Instant::now();
    let end = loop {
        match lines.recv_timeout(POLL) {
            Ok(line) => {
                heard = Instant::now();
                if let Some(event) = Event::parse(&line) {
                    on_event(event);
                }
            }
            // The emulator has ended, or is about to.
            Err(RecvTimeoutError::Disconnected) => break End::Off,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > silence => break End::Silent,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupt::is_requested() {
            break End::Off;
        }
    };
    // Its end closes the pipes, which the threads read from.
    drop(emulator);
    // The emulator may have heard of it before us.
    if interrupt::is_requested() {
        bail!("interrupted; the guest is killed");
    }
    let text = fs::read(console).with_context(|| format!("cannot read {}", console.display()))?;
    Ok(Ended {
        end,
        console: String::from_utf8_lossy(&text).replace('\r', ""),
        emulator: errors.join().unwrap_or_default(),
    })
}

/// A running emulator, killed when dropped.
struct Emulator(Child);

impl Emulator {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| {
            format!("`{}` does not start: install util-linux", command.get_program().display())
        })?;
        Ok(Self(child))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_lines(output: impl Read, lines: &Sender<String>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is worth showing.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
