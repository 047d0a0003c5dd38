//! `tunless detach`.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    bpf::Pins,
    daemon::{Lock, apply::detach::remove_all},
    exit::Exit,
    output::{self, Format},
};

#[derive(Serialize)]
struct Detached {
    /// What there was, for people.
    removed: Vec<String>,
}

/// Removes everything of ours.
pub async fn detach(pins: &Pins, format: Format) -> Result<Exit> {
    let lock = Lock::take(pins).context(
        "the daemon would put everything back; stop it first (`systemctl stop tunless`)",
    )?;
    let removed = remove_all(pins, lock).await?;
    if removed.has_restored_sysctls {
        eprintln!(
            "conntrack judges TCP strictly again: where rules drop what is INVALID, connections \
             that were leased may stall"
        );
    }
    let text = match removed.what.is_empty() {
        true => "there was nothing of ours".to_owned(),
        false => format!("removed {}", removed.what.join(", ")),
    };
    output::done(format, &Detached { removed: removed.what }, &text)?;
    Ok(Exit::Ok)
}
