//! The build gate: faults that compile and link, and fail on the node.
//!
//! - A panic path. The verifier rejects it, with a message that names neither
//!   the line nor the cause (`last insn is not an exit or jmp`). The compiler
//!   puts the panic functions into a section of their own, `.text.unlikely.`.
//! - A called `memcpy`, `memmove`, `memset` or `memcmp`. They are byte loops:
//!   slow, and `memmove` subtracts pointers, which the verifier refuses to a
//!   loader without `CAP_PERFMON`. The functions are always in the object; only
//!   a call to one (an `R_BPF_64_32` relocation) is a fault.

use anyhow::{Context as _, Result, bail};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionFlags, SymbolKind,
    elf::{R_BPF_64_32, SHF_EXECINSTR},
};

const PANIC_SECTION: &str = ".text.unlikely.";
const MEMORY_FUNCTIONS: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
const PANIC_CAUSES: &str = "usual causes of a panic: `a[i]` with an index the compiler cannot \
     bound, `unwrap` or `expect`, division by what may be zero; use `get`, `?`, `checked_div`";
const MEMORY_CAUSES: &str = "usual causes of these calls: an array copied whole (assign a MAC \
     address as three u16, one by one), a large value zeroed on the stack, slices copied or \
     compared with a length known only at run time";

/// Checks one linked eBPF object; the error lists every fault and the usual causes.
pub fn check(elf: &[u8]) -> Result<()> {
    let object = object::File::parse(elf).context("the eBPF object is not an ELF file")?;
    let mut faults = Vec::new();
    let mut calls_memory = false;

    let panics = object.section_by_name(PANIC_SECTION).map(|section| section.index());
    if panics.is_some() {
        faults.push(format!("section `{PANIC_SECTION}` holds a panic"));
    }

    for section in object.sections().filter(is_code) {
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            if !is_call(relocation.flags()) {
                continue;
            }
            let callee = object.symbol_by_index(index).context("a relocation names no symbol")?;
            let caller = function_at(&object, &section, offset);
            let name = callee.name().unwrap_or_default();
            if MEMORY_FUNCTIONS.contains(&name) {
                calls_memory = true;
                faults.push(format!("{caller} calls `{name}`"));
            } else if panics.is_some() && callee.section_index() == panics {
                faults.push(format!("{caller} can panic"));
            }
        }
    }

    if faults.is_empty() {
        return Ok(());
    }
    faults.dedup();
    if panics.is_some() {
        faults.push(PANIC_CAUSES.into());
    }
    if calls_memory {
        faults.push(MEMORY_CAUSES.into());
    }
    bail!("the eBPF object does not pass the build gate:\n  {}", faults.join("\n  "))
}

fn is_code(section: &object::Section<'_, '_>) -> bool {
    matches!(
        section.flags(),
        SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_EXECINSTR) != 0
    )
}

fn is_call(flags: RelocationFlags) -> bool {
    matches!(flags, RelocationFlags::Elf { r_type } if r_type == R_BPF_64_32)
}

/// The function that holds this instruction, for the message.
fn function_at(
    object: &object::File<'_>,
    section: &object::Section<'_, '_>,
    offset: u64,
) -> String {
    let section_name = section.name().unwrap_or("?");
    object
        .symbols()
        .filter(|symbol| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        })
        .find(|symbol| {
            (symbol.address()..symbol.address().saturating_add(symbol.size())).contains(&offset)
        })
        .and_then(|symbol| symbol.name().ok())
        .map_or_else(
            || format!("section `{section_name}` at {offset:#x}"),
            |name| format!("`{name}` (section `{section_name}`)"),
        )
}
