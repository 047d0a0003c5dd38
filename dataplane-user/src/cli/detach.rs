//! `tunless detach`.

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Pins,
    daemon::{Held, Lock, apply::detach::remove_all},
    exit::Exit,
    netfilter::conntrack,
    output::{self, Format},
};

#[derive(JsonSchema, Serialize)]
pub(super) struct Detached {
    /// What there was and is removed, for people.
    removed: Vec<String>,
}

/// Removes everything of ours.
pub async fn detach(pins: &Pins, format: Format) -> Result<Exit> {
    let lock = Lock::take(pins).map_err(|error| match error.is::<Held>() {
        true => error.context(
            "the daemon would put everything back; stop it first (`systemctl stop tunless`)",
        ),
        false => error,
    })?;
    let removed = remove_all(pins, lock).await?;
    // Our table is the sign that flows were leased, and so that these were set.
    if removed.had_marks
        && !removed.has_restored_sysctls
        && let Some(note) = conntrack::left_relaxed()
    {
        eprintln!("{note}");
    }
    if removed.has_restored_sysctls {
        eprintln!(
            "conntrack judges TCP strictly again: where rules drop what is INVALID, connections \
             that were leased may stall, and silent ones may be forgotten within minutes"
        );
    }
    let text = match removed.what.is_empty() {
        true => "there was nothing of ours".to_owned(),
        false => format!("removed {}", removed.what.join(", ")),
    };
    output::done(format, &Detached { removed: removed.what }, &text)?;
    Ok(Exit::Ok)
}
