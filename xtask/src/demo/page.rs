//! What the demo looks like: headings, commands with their output, proofs.
//!
//! Colours on a terminal only, and not where `NO_COLOR` is set.

use std::{
    cell::Cell,
    env,
    io::{self, IsTerminal as _, Write as _},
};

use super::wrap;

const INDENT: usize = 2;
/// How the line begins that ends a step well.
pub const PROVED: &str = "✔";
/// How the line begins that ends a step, and the demo.
pub const REFUTED: &str = "✘";

/// Prints, and counts what was proved.
pub struct Page {
    colour: bool,
    steps: usize,
    /// How many steps have begun.
    begun: usize,
    proved: usize,
    /// The line before the next one.
    last: Cell<Look>,
}

/// How a line stands out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Heading,
    Remark,
    Prompt,
    Good,
    Bad,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "\x1b[1m",
            Self::Remark => "\x1b[2m",
            Self::Prompt => "\x1b[36m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
        }
    }
}

impl Page {
    /// A page for so many steps.
    pub fn new(steps: usize) -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|it| it != "dumb");
        Self { colour: wanted && able, steps, begun: 0, proved: 0, last: Cell::new(Look::Plain) }
    }

    /// Begins a step: what is about to be seen, and why it matters.
    pub fn begin(&mut self, title: &str, why: &str) {
        self.begun += 1;
        let heading = format!("[{}/{}] {title}", self.begun, self.steps);
        self.put("", Look::Plain);
        self.put(&heading, Look::Heading);
        for line in wrap::paragraph(why, INDENT) {
            self.put(&line, Look::Plain);
        }
    }

    /// A heading without a step.
    pub fn heading(&self, text: &str) {
        self.put("", Look::Plain);
        self.put(text, Look::Heading);
    }

    /// A paragraph.
    pub fn say(&self, text: &str) {
        for line in wrap::paragraph(text, INDENT) {
            self.put(&line, Look::Plain);
        }
    }

    /// Lines that are set already.
    pub fn picture(&self, text: &str) {
        self.put("", Look::Plain);
        for line in text.lines() {
            self.put(&format!("{:INDENT$}{line}", ""), Look::Plain);
        }
    }

    /// A word between commands, set as a shell's comment.
    pub fn remark(&self, text: &str) {
        self.part();
        for line in wrap::paragraph(text, INDENT + 2) {
            self.put(&format!("{:INDENT$}# {}", "", line.trim_start()), Look::Remark);
        }
    }

    /// What a person types, and where.
    pub fn typed(&self, place: &str, line: &str) {
        self.part();
        for line in wrap::line(&format!("{place}# {line}"), INDENT) {
            self.put(&line, Look::Prompt);
        }
    }

    /// A blank line between what one command printed and the next.
    fn part(&self) {
        if self.last.get() == Look::Plain {
            self.put("", Look::Plain);
        }
    }

    /// What the command printed.
    pub fn printed(&self, text: &str) {
        for line in text.trim_end().lines() {
            for line in wrap::line(line, INDENT) {
                self.put(&line, Look::Plain);
            }
        }
    }

    /// Ends a step: what it proved.
    pub fn prove(&mut self, what: &str) {
        self.proved += 1;
        self.put("", Look::Plain);
        self.verdict(PROVED, what, Look::Good);
    }

    /// Ends a step that failed.
    pub fn refute(&self, why: &str) {
        self.put("", Look::Plain);
        self.verdict(REFUTED, why, Look::Bad);
    }

    /// How many steps proved what they were to prove.
    pub fn proved(&self) -> usize {
        self.proved
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.steps
    }

    fn verdict(&self, mark: &str, text: &str, look: Look) {
        let mut lines = wrap::paragraph(text, INDENT);
        if let Some(first) = lines.first_mut() {
            *first = format!("{mark} {}", first.trim_start());
        }
        for line in lines {
            self.put(&line, look);
        }
    }

    fn put(&self, line: &str, look: Look) {
        self.last.set(look);
        let mut stdout = io::stdout().lock();
        // Nobody may be reading; the lab still has to be removed in order.
        let _ = match (self.colour, look) {
            (false, _) | (true, Look::Plain) => writeln!(stdout, "{line}"),
            (true, look) => writeln!(stdout, "{}{line}\x1b[0m", look.code()),
        };
    }
}
