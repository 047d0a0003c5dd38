//! clsact filters: how TC programs are attached on kernels before 6.6, which
//! have no TCX links.
//!
//! A filter holds its program by itself, so it outlives us as a pinned link
//! does. It is found again by fixed numbers, [`PRIORITY`] and [`HANDLE`], and by
//! a pin of its program in the place of a link's pin, from which everybody knows
//! what is ours.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{
    SchedClassifier, TcAttachType,
    links::Link as _,
    tc::{
        NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle,
        qdisc_add_clsact,
    },
};
use dataplane_common::{IfIndex, Program};
use nix::net::if_::if_nametoindex;

use super::{AttachedLink, Attachment, Hook as _, Pins, pins};
use crate::kernel::{Filter, Kernel};

/// Behind everybody who chose a number on purpose (Felix's BPF filters have 1).
pub const PRIORITY: u16 = 49_000;
/// Of our filter, at that priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);
/// As the kernel tells it.
const HANDLE_NUMBER: u32 = 1;

/// Puts the program into our filter on an interface, in place if there is one
/// already, and pins it.
///
/// # Errors
/// If the kernel refuses.
pub fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    at: Attachment,
    direction: TcAttachType,
    interface: &str,
) -> Result<()> {
    let made_qdisc = match qdisc_add_clsact(interface) {
        Ok(()) => true,
        Err(error) if errno(&error) == Some(libc::EEXIST) => false,
        Err(error) => return Err(error).context("making the clsact qdisc"),
    };
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let options = TcAttachOptions::Netlink(options);
    let id = match program.attach_with_options(interface, direction, options) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => {
            program.attach_to_link(ours(interface, direction)?)?
        }
        attached => attached?,
    };
    leave(program, id)?;
    if if_nametoindex(interface).ok() != Some(at.ifindex.0) {
        bail!("{interface} was replaced meanwhile; the new one is next");
    }
    if made_qdisc {
        pin(program, &pins.own_qdisc(at.ifindex))?;
    }
    pin(program, &pins.link(at.program, at.ifindex))
}

/// Takes our filter off an interface. The pin stays. That there is none is fine.
///
/// # Errors
/// If the kernel refuses.
pub async fn detach(
    kernel: &Kernel,
    at: Attachment,
    direction: TcAttachType,
    interface: &str,
) -> Result<()> {
    let is_there = |filter: &Filter| filter.direction == direction && is_ours(filter);
    if kernel.filters(at.ifindex).await?.iter().any(is_there) {
        ours(interface, direction)?.detach().context("removing our filter")?;
    }
    Ok(())
}

/// Removes an interface's `clsact` qdisc if we made it and nobody uses it. Only
/// when all is to go: adding and removing it stops the interface for a moment
/// (`net/sched/sch_api.c`, `qdisc_graft`), which loses packets.
///
/// # Errors
/// If the kernel refuses.
pub async fn remove_qdisc(kernel: &Kernel, pins: &Pins, ifindex: IfIndex) -> Result<()> {
    if pins.own_qdisc(ifindex).exists() && kernel.filters(ifindex).await?.is_empty() {
        kernel.delete_clsact(ifindex).await?;
    }
    forget_qdisc(pins, ifindex)
}

/// The interface's `clsact` qdisc is not, or no longer, of our making.
///
/// # Errors
/// If the pin that says so cannot be removed.
pub fn forget_qdisc(pins: &Pins, ifindex: IfIndex) -> Result<()> {
    remove(&pins.own_qdisc(ifindex))
}

fn remove(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// Asks the kernel which of the pinned filters are on their interfaces.
///
/// # Errors
/// If the kernel does not tell.
pub async fn check(kernel: &Kernel, links: &mut [(Attachment, AttachedLink)]) -> Result<()> {
    let mut seen = BTreeMap::new();
    for (at, link) in links.iter_mut().filter(|(_, link)| link.is_filter) {
        let Some(direction) = at.program.tc() else { continue };
        let filters = match seen.entry(at.ifindex) {
            Entry::Occupied(filters) => filters.into_mut(),
            // Of an interface that is gone there are none.
            Entry::Vacant(place) => {
                place.insert(kernel.filters(at.ifindex).await.unwrap_or_default())
            }
        };
        link.is_live = filters.iter().any(|filter| {
            filter.direction == direction
                && is_ours(filter)
                && filter.program_id == Some(link.program_id)
        });
    }
    Ok(())
}

/// Whether it is a filter of ours, pinned or not: by its numbers, and by the
/// program's name.
#[must_use]
pub fn is_ours(filter: &Filter) -> bool {
    let has_our_name =
        |name: &String| Program::ALL.iter().any(|program| name.starts_with(program.as_str()));
    (filter.priority, filter.handle) == (PRIORITY, HANDLE_NUMBER)
        && filter.name.as_ref().is_some_and(has_our_name)
}

fn ours(interface: &str, direction: TcAttachType) -> Result<SchedClassifierLink> {
    Ok(SchedClassifierLink::attached(interface, direction, PRIORITY, HANDLE, None)?)
}

/// aya would remove the filter with the handle to it.
fn leave(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<()> {
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn pin(program: &mut SchedClassifier, path: &Path) -> Result<()> {
    remove(path)?;
    program.pin(path).with_context(|| format!("pinning {}", path.display()))?;
    pins::restrict(path)
}

/// The kernel's error number, wherever aya keeps it.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}
