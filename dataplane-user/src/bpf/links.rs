//! Links: what is attached where.
//!
//! A pinned link keeps its program on the hook whatever becomes of us. Whether
//! it still does is read from the kernel each time: an interface may be gone,
//! and others may detach a link without asking.

use std::{fs, io, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result};
use dataplane_common::{IfIndex, Program};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Pins, sys};

/// A program on an interface.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, JsonSchema, Serialize,
)]
pub struct Attachment {
    /// The program, and so the hook.
    #[serde(with = "super::hook::by_name")]
    #[schemars(with = "String", extend("enum" = crate::schema::programs()))]
    pub program: Program,
    /// The interface.
    pub ifindex: IfIndex,
}

/// A pinned link as the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachedLink {
    /// The program in it.
    pub program_id: u32,
    /// Whether it is on its interface; a severed link has none. Of a filter, see
    /// [`super::filters::check`].
    pub is_live: bool,
    /// Not a link, but the program of a clsact filter.
    pub is_filter: bool,
}

/// What has a pin, whether it is attached or not.
///
/// # Errors
/// If the directory cannot be read.
pub fn pinned(pins: &Pins) -> Result<Vec<(Attachment, std::path::PathBuf)>> {
    let directory = pins.links();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    let mut pinned = Vec::new();
    for entry in entries {
        let path = entry?.path();
        pinned.extend(parse_name(&path).map(|attachment| (attachment, path)));
    }
    Ok(pinned)
}

/// All pinned links and programs of filters; whether the latter are attached is
/// still to be asked ([`super::filters::check`]).
///
/// # Errors
/// If the directory or a pin cannot be read.
pub fn list(pins: &Pins) -> Result<Vec<(Attachment, AttachedLink)>> {
    let mut links = Vec::new();
    for (attachment, path) in pinned(pins)? {
        match look(&path, attachment.ifindex) {
            Ok(link) => links.push((attachment, link)),
            // Removed since we read the directory.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    links.sort_unstable_by_key(|(attachment, _)| *attachment);
    Ok(links)
}

/// Whether an attachment's pin is gone, or its link detached. A filter's pin does not tell.
#[must_use]
pub fn is_lost(pins: &Pins, at: Attachment) -> bool {
    look(&pins.link(at.program, at.ifindex), at.ifindex)
        .map_or_else(|error| is_missing(&error), |link| !link.is_live && !link.is_filter)
}

/// Ends an attachment: takes the link off its hook and removes the pin. Packets see no program of
/// a TC link any more when this returns; the kernel has waited for those on the way
/// (`kernel/bpf/tcx.c`, `tcx_link_release`).
///
/// Removing the pin alone would not do: a link lives as long as any descriptor of it, such as
/// one that `status` holds for a moment, and after the last it is released whenever the kernel
/// gets to it (`kernel/bpf/inode.c`, `bpf_free_inode`).
///
/// A filter's pin holds its program, so only the pin goes; see [`super::filters::detach`].
///
/// # Errors
/// If the kernel refuses, or the pin cannot be removed.
pub fn end(pins: &Pins, at: Attachment) -> Result<()> {
    let pin = pins.link(at.program, at.ifindex);
    let descriptor = sys::open(&pin).with_context(|| format!("opening {}", pin.display()))?;
    match sys::detach_link(&descriptor) {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
            return Err(error).with_context(|| format!("detaching {}", pin.display()));
        }
        _ => {}
    }
    fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))
}

fn is_missing(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn parse_name(path: &Path) -> Option<Attachment> {
    let (program, ifindex) = path.file_name()?.to_str()?.rsplit_once('_')?;
    Some(Attachment {
        program: Program::from_name(program)?,
        ifindex: IfIndex(ifindex.parse().ok()?),
    })
}

/// Looks at a pinned link. The kernel tells program and interface in the
/// descriptor's fdinfo (`kernel/bpf/tcx.c`, `net/core/dev.c`), where reading
/// needs no privilege beyond opening the pin; `BPF_PROG_QUERY` by aya would ask
/// for `CAP_SYS_ADMIN`.
fn look(pin: &Path, ifindex: IfIndex) -> Result<AttachedLink> {
    let descriptor = sys::open(pin).with_context(|| format!("opening {}", pin.display()))?;
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let fdinfo = fs::read_to_string(&path).context(path)?;
    let field = |name: &str| -> Option<u32> {
        fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Ok(AttachedLink {
        program_id: field("prog_id:").unwrap_or(0),
        is_live: field("ifindex:") == Some(ifindex.0),
        is_filter: !fdinfo.contains("link_type:"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_program_and_interface() {
        for program in Program::ALL {
            let attachment = Attachment { program, ifindex: IfIndex(17) };
            let pin = Pins::new("/sys/fs/bpf/t".as_ref()).link(program, attachment.ifindex);
            assert_eq!(parse_name(&pin), Some(attachment));
            assert!(!pin.file_name().unwrap().to_str().unwrap().contains('.'));
        }
        let name = Program::EncapPod.as_str();
        for other in [name, &format!("{name}_x"), "nothing_3", "3"] {
            assert_eq!(parse_name(other.as_ref()), None);
        }
    }
}
