//! Where notes go: to the journal with their priority, else to stderr as text.
//!
//! The journal is spoken to in its own protocol ([`journal`]): one entry for each event,
//! however many lines it has. Where its socket is out of reach, stderr leads there, too,
//! and a prefix to each line has the priority ([`prefix`]).

mod filter;
mod journal;
mod prefix;

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::Error;
use tracing::Level;
use tracing_subscriber::{fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::prefix::Prefix;

/// Where an error goes that ends the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Log {
    /// Into the journal, as an event like the others.
    Journal,
    /// To stderr, for the one who typed the command.
    Stderr,
}

impl Log {
    /// Starts logging, as `RUST_LOG` and stderr have it. `is_silent`: the command reports by
    /// its output, so only `RUST_LOG` makes it log.
    #[must_use]
    pub fn start(is_silent: bool) -> Self {
        let (filter, complaint) = filter::from_environment(is_silent);
        let log = if journal::is_stderr() { Self::Journal } else { Self::Stderr };
        let registry = tracing_subscriber::registry().with(filter);
        match log {
            Self::Journal => match journal::layer() {
                Ok(journal) => registry.with(journal).init(),
                // Out of reach from here.
                Err(_) => {
                    registry.with(fmt::layer().event_format(Prefix).with_writer(io::stderr)).init();
                }
            },
            Self::Stderr => {
                let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
                // Data goes to stdout, notes to stderr.
                let text = fmt::layer().with_target(false).with_ansi(colour);
                registry.with(text.with_writer(io::stderr)).init();
            }
        }
        if let Some(complaint) = complaint {
            tracing::warn!("{complaint}");
        }
        log
    }

    /// Reports the error that ends the process, whatever `RUST_LOG` leaves out.
    pub fn fail(self, error: &Error) {
        if self == Self::Journal && tracing::enabled!(Level::ERROR) {
            tracing::error!("{error:#}");
        } else {
            eprintln!("tunless: {error:#}");
        }
    }
}
