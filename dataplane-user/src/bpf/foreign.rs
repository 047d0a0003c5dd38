//! Programs of others: what may be read of them.

use std::io;

use super::{sys, verdict};

/// What the kernel shows of a program.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// It is proven to pass every packet on to the next program; see [`verdict`].
    pub passes_on: bool,
}

/// Returns what the kernel shows of the program with this number; `None` without `CAP_SYS_ADMIN`,
/// which reading programs of others takes, or if it is gone.
///
/// # Errors
/// If the kernel refuses for another reason.
pub fn show(id: u32) -> io::Result<Option<Shown>> {
    let hidden = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOENT))
    };
    let program = match sys::program_by_id(id) {
        Err(error) if hidden(&error) => return Ok(None),
        program => program?,
    };
    let (name, instructions) = sys::program_text(&program)?;
    Ok(Some(Shown { name, passes_on: verdict::always_passes_on(&instructions) }))
}
