//! A command in a pseudo-terminal, as an operator sees it.
//!
//! `script` of util-linux makes the terminal and copies what is written to it. These bytes are not a screen
//! yet: a terminal emulator makes one of them.

use std::process::Command;

use anyhow::Result;

use crate::cmd::{self, Output};

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters of a row.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Runs `command` in a terminal of this size until it ends, without any key pressed. `stdout` has what the
/// terminal got, both streams in order. Of `command` the program and its arguments count, the environment and
/// the directory do not.
///
/// # Errors
/// If `script` is not there, or the command takes longer than [`cmd::DEADLINE`]. A failing exit code is an
/// answer.
pub fn run(command: &Command, size: Size) -> Result<Output> {
    let Size { columns, rows } = size;
    let line = format!("stty cols {columns} rows {rows} && exec {}", quoted(command));
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .envs([("TERM", "xterm-256color"), ("SHELL", "/bin/sh")]);
    cmd::run(&mut script, b"", cmd::DEADLINE)
}

/// The command as a line for a shell.
fn quoted(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quote =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    words.map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_terminal_of_that_size_and_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "test -t 1 && stty size && echo \"$0\"; exit 3", "it's $HOME; \"x\""]);
        let output = run(&command, Size { columns: 101, rows: 33 }).unwrap();
        assert_eq!(output.stdout, "33 101\r\nit's $HOME; \"x\"\r\n");
        assert_eq!(output.status, Some(3));
    }
}
