//! All programs of the kernel, read by an iterator (`dataplane-ebpf/src/listing.rs`).
//!
//! It needs the rights that the daemon's own programs need, `CAP_BPF` and `CAP_PERFMON`, a kernel with type
//! information, and one that is not locked down to confidentiality. There is no second way: opening a
//! program by its number takes `CAP_SYS_ADMIN`, and kernels that Calico's nodes run have type information.
//!
//! The instructions are those that the kernel keeps, without what it translates for
//! `BPF_OBJ_GET_INFO_BY_FD` (`kernel/bpf/syscall.c`, `bpf_insn_prepare_dump`).

use std::{collections::BTreeMap, io::Read as _};

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::Iter,
};
use dataplane_common::listing::{Head, Wanted};

use super::kernel_types::KernelTypes;
use crate::object;

/// `BPF_PROG_TYPE_SCHED_CLS`: a TC program.
const CLASSIFIER: u32 = 3;
/// `BPF_PROG_TYPE_EXT`: a program that replaces a function of another (`freplace`).
const EXTENSION: u32 = 28;

/// The iterator, loaded.
pub struct Listing {
    ebpf: Ebpf,
    wanted: Array<MapData, Wanted>,
}

/// One program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// How many instructions it has.
    pub count: u32,
    /// It may replace functions of TC programs, which look then as they did before.
    pub replaces_classifiers: bool,
}

impl Listing {
    /// Loads the iterator.
    ///
    /// # Errors
    /// If the kernel has no type information, or refuses.
    pub fn load() -> Result<Self> {
        let offsets = KernelTypes::read()?.of_programs()?;
        let types = Btf::from_sys_fs().context("the kernel's type information")?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&types))
            .override_global("OFFSETS", &offsets, true)
            .load(object::LISTING)
            .context("loading the iterator over programs")?;
        iterator(&mut ebpf)?
            .load("bpf_prog", &types)
            .context("loading the iterator over programs")?;
        let wanted = ebpf.take_map("WANTED").context("no map WANTED")?.try_into()?;
        Ok(Self { ebpf, wanted })
    }

    /// Lists every program by its number.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn all(&mut self) -> Result<BTreeMap<u32, Listed>> {
        Ok(self.run(Wanted::default())?.into_iter().map(|it| (it.head.id, it.listed())).collect())
    }

    /// Reads a program's instructions, as numbers in the machine's byte order; `None`: it is gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn instructions(&mut self, id: u32) -> Result<Option<Vec<u64>>> {
        let mut instructions = Vec::new();
        loop {
            let from = u32::try_from(instructions.len())?;
            let entries = self.run(Wanted { id, from })?;
            let Some(entry) = entries.into_iter().find(|entry| entry.head.id == id) else {
                return Ok(None);
            };
            instructions.extend(&entry.piece);
            if instructions.len() >= entry.head.count as usize {
                return Ok(Some(instructions));
            }
            anyhow::ensure!(!entry.piece.is_empty(), "program {id} cannot be read from {from} on");
        }
    }

    /// Walks all programs once.
    fn run(&mut self, wanted: Wanted) -> Result<Vec<Entry>> {
        self.wanted.set(0, wanted, 0).context("WANTED")?;
        let iterator = iterator(&mut self.ebpf)?;
        let link = iterator.attach()?;
        let mut written = Vec::new();
        iterator
            .take_link(link)?
            .into_file()?
            .read_to_end(&mut written)
            .context("listing programs")?;
        parse(&written).context("what the iterator over programs wrote is cut off")
    }
}

fn iterator(ebpf: &mut Ebpf) -> Result<&mut Iter> {
    Ok(ebpf.program_mut("list_programs").context("no program list_programs")?.try_into()?)
}

/// What the iterator wrote about one program.
struct Entry {
    head: Head,
    piece: Vec<u64>,
}

impl Entry {
    fn listed(&self) -> Listed {
        let bytes: Vec<u8> = self.head.name.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Listed {
            name: String::from_utf8_lossy(name).into_owned(),
            count: self.head.count,
            replaces_classifiers: self.head.kind == EXTENSION
                && self.head.target_kind == CLASSIFIER,
        }
    }
}

/// Splits what the iterator wrote; `None`: it is cut off.
fn parse(written: &[u8]) -> Option<Vec<Entry>> {
    const HEAD: usize = size_of::<Head>();
    let mut entries = Vec::new();
    let mut rest = written;
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(HEAD)?;
        let number = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let word = |at: usize| Some(u64::from_ne_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let head = Head {
            id: number(std::mem::offset_of!(Head, id))?,
            kind: number(std::mem::offset_of!(Head, kind))?,
            target_kind: number(std::mem::offset_of!(Head, target_kind))?,
            count: number(std::mem::offset_of!(Head, count))?,
            name: [
                word(std::mem::offset_of!(Head, name))?,
                word(std::mem::offset_of!(Head, name) + size_of::<u64>())?,
            ],
            piece: number(std::mem::offset_of!(Head, piece))?,
            reserved: 0,
        };
        let (piece, behind) = behind.split_at_checked(head.piece as usize * size_of::<u64>())?;
        let (words, _) = piece.as_chunks::<8>();
        entries.push(Entry {
            head,
            piece: words.iter().map(|word| u64::from_ne_bytes(*word)).collect(),
        });
        rest = behind;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(head: Head, piece: &[u64]) -> Vec<u8> {
        let numbers = [head.id, head.kind, head.target_kind, head.count].map(u32::to_ne_bytes);
        let name = head.name.map(u64::to_ne_bytes);
        let rest = [head.piece, head.reserved].map(u32::to_ne_bytes);
        let piece = piece.iter().flat_map(|word| word.to_ne_bytes());
        let head = numbers.into_iter().flatten().chain(name.into_iter().flatten());
        head.chain(rest.into_iter().flatten()).chain(piece).collect()
    }

    #[test]
    fn what_the_iterator_writes_is_split() {
        let name = [u64::from_ne_bytes(*b"tcx_ingr"), u64::from_ne_bytes(*b"ess_flo\0")];
        let first = Head { id: 7, kind: 3, count: 5, name, piece: 2, ..Head::default() };
        let second = Head { id: 9, kind: 28, target_kind: 3, count: 1, ..Head::default() };
        let text = [written(first, &[0x95, 0xb7]), written(second, &[])].concat();
        let entries = parse(&text).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.head).collect::<Vec<_>>(), [first, second]);
        assert_eq!(entries[0].piece, [0x95, 0xb7]);
        let listed = |name: &str, count, replaces_classifiers| Listed {
            name: name.to_owned(),
            count,
            replaces_classifiers,
        };
        assert_eq!(entries[0].listed(), listed("tcx_ingress_flo", 5, false));
        assert_eq!(entries[1].listed(), listed("", 1, true));
        let of_xdp = Head { target_kind: 6, ..second };
        assert!(!Entry { head: of_xdp, piece: Vec::new() }.listed().replaces_classifiers);
        for cut in 1..text.len() {
            let is_between = cut == size_of::<Head>() + 16;
            assert_eq!(parse(&text[..cut]).is_some(), is_between, "cut off at {cut}");
        }
        assert_eq!(parse(&[]).map(|entries| entries.len()), Some(0));
    }
}
