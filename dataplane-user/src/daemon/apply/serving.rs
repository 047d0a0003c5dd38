//! One version of tunless goes on where another stopped.
//!
//! The maps of the version that serves are named by the symlink `serving`. A daemon starts from
//! the routes in them, whatever version they are of, so it waits for no source. Its own maps
//! are full before the symlink names them and before the first program is swapped.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dataplane_common::Route;
use ipnet::Ipv4Net;

use crate::{
    bpf::{Pins, frozen, links},
    daemon::report::{Code, Problem},
    sources::{SourceKind, table::ChosenRoute},
};

/// Whether programs of another version serve, or served until a moment ago.
#[must_use]
pub fn is_another(pins: &Pins) -> bool {
    pins.active().is_some_and(|active| active != pins.maps())
}

/// The routes that an earlier run left active.
///
/// # Errors
/// If programs are attached, but what they forward by cannot be read.
pub fn routes(pins: &Pins) -> Result<BTreeMap<Ipv4Net, ChosenRoute>> {
    match pins.active() {
        Some(active) => frozen::routes(&active).map(remembered),
        None if links::list(pins).is_ok_and(|links| links.is_empty()) => Ok(BTreeMap::new()),
        None => bail!("programs are attached, but no map of routes is pinned"),
    }
}

/// Names what serves but cannot be read.
#[must_use]
pub fn unreadable(pins: &Pins, error: &anyhow::Error) -> Problem {
    let what = format!(
        "the routes that are active cannot be read: {error:#}; the programs that serve stay as \
         they are until every source of routes has reported"
    );
    let remedy = "if nothing is to be kept: stop the daemon, run `tunless detach`, start it again";
    let place = pins.root().display().to_string();
    Problem::new(Code::ActiveUnreadable, place, what).remedy(remedy)
}

/// What entries of `ROUTES` remember of the routes they came from.
#[must_use]
pub fn remembered(
    routes: impl IntoIterator<Item = (Ipv4Net, Route)>,
) -> BTreeMap<Ipv4Net, ChosenRoute> {
    let remote = routes.into_iter().filter(|(_, route)| route.is_destination());
    let chosen = remote.filter_map(|(cidr, route)| {
        let source = SourceKind::from_number(route.source)?;
        let (node, is_direct) = (route.node.into(), route.is_direct());
        Some((cidr, ChosenRoute { node, is_direct, source, since: route.since }))
    });
    chosen.collect()
}

/// The secret that the programs which serve share; a new one if there is none. While programs
/// are swapped one after the other, all must know the same.
///
/// # Errors
/// If the system has no random numbers.
pub fn secret(pins: &Pins, remembered: u32) -> Result<u32> {
    let of_0_1 = pins.active().and_then(|active| frozen::secret(&active));
    match of_0_1.unwrap_or(remembered) {
        0 => random(),
        secret => Ok(secret),
    }
}

/// Any number but zero, which stands for none.
fn random() -> Result<u32> {
    let number = getrandom::u32().map_err(|error| anyhow::anyhow!("no random number: {error}"))?;
    Ok(number.max(1))
}

/// Removes the maps of other versions, which are of no use once ours serve.
pub fn remove_other_versions(pins: &Pins) {
    for directory in pins.other_versions().unwrap_or_default() {
        match Pins::remove_version(&directory) {
            Ok(()) => tracing::info!("removed {}, of another version", directory.display()),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}
