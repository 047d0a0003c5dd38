//! Where the kernel that runs keeps the fields of its programs, by its type information (BTF).

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use btfparse::{Error, ErrorKind, Offset, Readable, TypeInformation, TypeVariant};
use dataplane_common::listing::Offsets;

/// Where the kernel shows its type information (`CONFIG_DEBUG_INFO_BTF`).
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Reads the offsets of the kernel that runs.
///
/// # Errors
/// If it shows no type information, or lacks a field.
pub fn of_this_kernel() -> Result<Offsets> {
    let bytes = match fs::read(Path::new(BTF)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the kernel has no {BTF} (CONFIG_DEBUG_INFO_BTF)")
        }
        bytes => bytes.with_context(|| format!("reading {BTF}"))?,
    };
    find(&bytes).with_context(|| BTF.to_owned())
}

/// Finds the offsets in type information.
fn find(bytes: &[u8]) -> Result<Offsets> {
    let types = TypeInformation::new(&Bytes(bytes)).map_err(|error| readable(&error))?;
    let (program, aux) =
        (Structure::find(&types, "bpf_prog")?, Structure::find(&types, "bpf_prog_aux")?);
    Ok(Offsets {
        kind: program.offset_of("type")?,
        count: program.offset_of("len")?,
        aux: program.offset_of("aux")?,
        instructions: program.offset_of("insnsi")?,
        id: aux.offset_of("id")?,
        name: aux.offset_of("name")?,
        target_kind: aux.offset_of("saved_dst_prog_type")?,
    })
}

/// The library's error is none of the standard's.
fn readable(error: &Error) -> anyhow::Error {
    anyhow::anyhow!("{}", error.message())
}

/// A structure of the kernel's.
struct Structure<'a> {
    types: &'a TypeInformation,
    id: u32,
    name: &'static str,
}

impl<'a> Structure<'a> {
    /// By name alone a function or a declaration could be found instead.
    fn find(types: &'a TypeInformation, name: &'static str) -> Result<Self> {
        let is_it = |kind: &TypeVariant| matches!(kind, TypeVariant::Struct(it) if it.name().as_deref() == Some(name));
        let found = types.get().iter().find(|(_, kind)| is_it(kind));
        let id = *found.with_context(|| format!("no struct {name}"))?.0;
        Ok(Self { types, id, name })
    }

    /// Bytes from the beginning to a field, which may be one of an unnamed union.
    fn offset_of(&self, field: &str) -> Result<u32> {
        let found = self.types.offset_of(self.id, field).map_err(|error| readable(&error));
        match found.with_context(|| format!("struct {}: {field}", self.name))?.1 {
            Offset::ByteOffset(bytes) => Ok(bytes),
            other => bail!("struct {}: {field} is {other:?}, no number of bytes", self.name),
        }
    }
}

/// Type information in memory.
struct Bytes<'a>(&'a [u8]);

impl Readable for Bytes<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..));
        let Some(bytes) = rest.and_then(|rest| rest.get(..buffer.len())) else {
            return Err(Error::new(ErrorKind::IOError, "the type information ends too early"));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_type_information_is_an_error() {
        for bytes in [&[][..], &[0x9f, 0xeb], b"something else, and longer than the header is"] {
            assert!(find(bytes).is_err(), "{bytes:?}");
        }
    }
}
