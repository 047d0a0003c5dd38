//! Where the kernel that runs keeps fields of its programs and packets, by its type information (BTF).

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use btfparse::{Error, ErrorKind, Integer32Value, Offset, Readable, TypeInformation, TypeVariant};
use dataplane_common::{listing, trace};

/// Where the kernel shows its type information (`CONFIG_DEBUG_INFO_BTF`).
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The types of the kernel that runs.
pub struct KernelTypes(TypeInformation);

impl KernelTypes {
    /// Reads them.
    ///
    /// # Errors
    /// If the kernel shows none.
    pub fn read() -> Result<Self> {
        let bytes = match fs::read(Path::new(BTF)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("the kernel has no {BTF} (CONFIG_DEBUG_INFO_BTF)")
            }
            bytes => bytes.with_context(|| format!("reading {BTF}"))?,
        };
        Self::parse(&bytes).with_context(|| BTF.to_owned())
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self(TypeInformation::new(&Bytes(bytes)).map_err(|error| readable(&error))?))
    }

    /// Returns where the fields are that the iterator over programs reads.
    ///
    /// # Errors
    /// If the kernel lacks one.
    pub fn of_programs(&self) -> Result<listing::Offsets> {
        let (program, aux) = (self.structure("bpf_prog")?, self.structure("bpf_prog_aux")?);
        Ok(listing::Offsets {
            kind: program.offset_of("type")?,
            count: program.offset_of("len")?,
            aux: program.offset_of("aux")?,
            instructions: program.offset_of("insnsi")?,
            id: aux.offset_of("id")?,
            name: aux.offset_of("name")?,
            target_kind: aux.offset_of("saved_dst_prog_type")?,
        })
    }

    /// Returns where the fields are that a trace reads.
    ///
    /// # Errors
    /// If the kernel lacks one.
    pub fn of_packets(&self) -> Result<trace::Offsets> {
        let (skb, device) = (self.structure("sk_buff")?, self.structure("net_device")?);
        let (xdp, queue) = (self.structure("xdp_buff")?, self.structure("xdp_rxq_info")?);
        Ok(trace::Offsets {
            skb_len: skb.offset_of("len")?,
            skb_data_len: skb.offset_of("data_len")?,
            skb_head: skb.offset_of("head")?,
            skb_data: skb.offset_of("data")?,
            skb_network_header: skb.offset_of("network_header")?,
            skb_dev: skb.offset_of("dev")?,
            dev_ifindex: device.offset_of("ifindex")?,
            xdp_data: xdp.offset_of("data")?,
            xdp_data_end: xdp.offset_of("data_end")?,
            xdp_rxq: xdp.offset_of("rxq")?,
            rxq_dev: queue.offset_of("dev")?,
            reserved: 0,
        })
    }

    /// Returns the names of an enumeration's values; none if the kernel lacks it.
    #[must_use]
    pub fn values_of(&self, name: &str) -> BTreeMap<u32, String> {
        let found = self.0.get().values().find_map(|kind| match kind {
            TypeVariant::Enum(it) if it.name().as_deref() == Some(name) => Some(it),
            _ => None,
        });
        let values = found.map(|it| it.named_value_list().clone()).unwrap_or_default();
        let number = |value| match value {
            Integer32Value::Signed(value) => value.cast_unsigned(),
            Integer32Value::Unsigned(value) => value,
        };
        values.into_iter().map(|it| (number(it.value), it.name)).collect()
    }

    fn structure(&self, name: &'static str) -> Result<Structure<'_>> {
        Structure::find(&self.0, name)
    }
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
            assert!(KernelTypes::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
