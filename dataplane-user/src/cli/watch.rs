//! `--watch`: a list again and again, until Ctrl-C or until its reader has gone.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{exit::Exit, output};

/// Clears a terminal and its cursor goes to the top left (ECMA-48, ED and CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How often a list is printed.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Watch {
    /// Print it again and again, this long after the last time [default: 1s].
    ///
    /// On a terminal in the same place; JSON and YAML are a document each time.
    #[arg(short = 'w', long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "1s", value_parser = super::pause)]
    watch: Option<Duration>,
}

impl Watch {
    /// Prints once, or until the reader has gone. An error ends it.
    pub fn run(self, mut print: impl FnMut() -> Result<Exit>) -> Result<Exit> {
        let Some(pause) = self.watch else { return print() };
        let is_terminal = io::stdout().is_terminal();
        loop {
            if is_terminal {
                output::text(CLEAR)?;
            }
            let exit = print()?;
            if output::is_reader_gone() {
                return Ok(exit);
            }
            thread::sleep(pause);
        }
    }
}
