//! `tunless top`: what goes on now, in a terminal.
//!
//! | question | file |
//! |---|---|
//! | what do maps and kernel show at a moment | [`look`] |
//! | what did two moments have between them, as a table | [`table`] (pure) |
//! | what does a key do | [`keys`] (pure) |
//! | how does it look | [`screen`] (pure) |
//!
//! This file is the loop: look, draw, wait for a key or for the next look.

mod keys;
mod look;
mod screen;
mod table;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use self::{
    keys::{Keys, Wish},
    look::Look,
    table::Table,
};
use crate::{
    bpf::{Maps, Pins},
    daemon::report::names,
    exit::Exit,
    kernel::Kernel,
};

/// What is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum View {
    /// The other nodes.
    Nodes,
    /// The local pods.
    Pods,
    /// Why packets left the programs the way they did.
    Reasons,
    /// Flows that skip the stack.
    Leases,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Nodes, Self::Pods, Self::Reasons, Self::Leases];

    /// As it is written above its table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Reasons => "reasons",
            Self::Leases => "leases",
        }
    }
}

/// What may be typed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// What is listed first.
    #[arg(default_value = "nodes")]
    view: View,
    /// How long rates are measured for, and how often they are shown: 100ms to 60s.
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// End after this long.
    #[arg(long = "for", value_name = "TIME", value_parser = crate::cli::pause)]
    length: Option<Duration>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = crate::cli::pause(text)?;
    let sane = Duration::from_millis(100)..=Duration::from_mins(1);
    if sane.contains(&interval) { Ok(interval) } else { Err("it has to be 100ms to 60s".into()) }
}

/// Shows it until `q`.
///
/// # Errors
/// Without a terminal, or if maps cannot be read any more.
pub async fn run(pins: &Pins, maps: &Maps, options: Options) -> Result<Exit> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!(
            "`tunless top` needs a terminal; `tunless nodes list -w`, `tunless endpoints list -w` and \
             `tunless counters list --rate -w` print the same figures as lines or JSON"
        );
    }
    let kernel = Kernel::connect()?;
    let mut terminal = ratatui::try_init().context("taking over the terminal")?;
    let outcome = show(&mut terminal, &Sight { pins, maps, kernel }, options).await;
    ratatui::restore();
    outcome.map(|()| Exit::Ok)
}

/// What is looked at.
struct Sight<'a> {
    pins: &'a Pins,
    maps: &'a Maps,
    kernel: Kernel,
}

impl Sight<'_> {
    async fn look(&self, view: View) -> Result<Look> {
        Look::at(self.maps, &self.kernel, &names::read(self.pins), view).await
    }
}

async fn show(terminal: &mut DefaultTerminal, sight: &Sight<'_>, options: Options) -> Result<()> {
    let end = options.length.map(|length| Instant::now() + length);
    let mut keys = Keys::new(options.view);
    let mut before: Option<Look> = None;
    let mut now = sight.look(keys.view()).await?;
    loop {
        let whole = Table::between(before.as_ref(), &now);
        let mut table = keys.arrange(&whole);
        terminal.draw(|frame| screen::draw(frame, &keys, &table, &table.totals))?;
        let next = Instant::now() + options.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(());
            }
            if left.is_zero() || !event::poll(left.min(TICK))? {
                if left.is_zero() {
                    break;
                }
                continue;
            }
            let Event::Key(key) = event::read()? else { break };
            if key.kind != KeyEventKind::Press {
                continue;
            }
            match keys.press(key, table.columns.len(), table.rows.len()) {
                Wish::Leave => return Ok(()),
                Wish::Look => {
                    before = None;
                    now = sight.look(keys.view()).await?;
                    break;
                }
                Wish::Draw => {
                    table = keys.arrange(&whole);
                    terminal.draw(|frame| screen::draw(frame, &keys, &table, &table.totals))?;
                }
            }
        }
        if keys.is_paused() || Instant::now() < next {
            continue;
        }
        let later = sight.look(keys.view()).await?;
        before = Some(std::mem::replace(&mut now, later));
    }
}

/// So often `--for` is looked at.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_no_blink_and_no_nap() {
        assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["0", "99ms", "61s", "soon"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
