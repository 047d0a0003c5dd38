//! The build gate on small objects: one clean, one per fault.

#[path = "../build/gate.rs"]
mod gate;

use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
    elf::{R_BPF_64_32, R_BPF_64_64},
    write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection},
};

#[test]
fn an_uncalled_memmove_passes() {
    let mut elf = Elf::new();
    elf.function(".text", "memmove");
    elf.function("classifier", "encap_pod");
    elf.verdict().expect("a clean object");
}

#[test]
fn a_map_reference_passes() {
    let mut elf = Elf::new();
    let (program, _) = elf.function("classifier", "encap_pod");
    let (_, map) = elf.function(".maps", "ROUTES");
    elf.relocation(program, map, R_BPF_64_64);
    elf.verdict().expect("a clean object");
}

#[test]
fn a_called_memory_function_is_named_with_its_caller() {
    for name in ["memcpy", "memmove", "memset", "memcmp", "bcmp"] {
        let mut elf = Elf::new();
        let (_, callee) = elf.function(".text", name);
        let (program, _) = elf.function("classifier", "encap_pod");
        elf.relocation(program, callee, R_BPF_64_32);
        let message = elf.verdict().expect_err("a call to a byte loop").to_string();
        assert!(message.contains("`encap_pod` (section `classifier`)"), "{message}");
        assert!(message.contains(&format!("calls `{name}`")), "{message}");
    }
}

#[test]
fn a_call_to_a_function_of_ours_passes() {
    let mut elf = Elf::new();
    let (_, callee) = elf.function(".text", "fold_checksum");
    let (program, _) = elf.function("xdp", "decap_xdp");
    elf.relocation(program, callee, R_BPF_64_32);
    elf.verdict().expect("a clean object");
}

#[test]
fn a_panic_section_is_named_with_the_program_that_reaches_it() {
    let mut elf = Elf::new();
    let (_, panic) = elf.function(".text.unlikely.", "panic_bounds_check");
    let (program, _) = elf.function("xdp", "decap_xdp");
    elf.relocation(program, panic, R_BPF_64_32);
    let message = elf.verdict().expect_err("a panic").to_string();
    assert!(message.contains("section `.text.unlikely.` holds a panic"), "{message}");
    assert!(message.contains("`decap_xdp` (section `xdp`) can panic"), "{message}");
}

#[test]
fn every_fault_is_listed() {
    let mut elf = Elf::new();
    elf.function(".text.unlikely.", "unwrap_failed");
    let (_, callee) = elf.function(".text", "memset");
    let (program, _) = elf.function("classifier", "encap_host");
    elf.relocation(program, callee, R_BPF_64_32);
    let message = elf.verdict().expect_err("two faults").to_string();
    assert!(message.contains(".text.unlikely.") && message.contains("memset"), "{message}");
}

#[test]
fn what_is_no_elf_file_is_refused() {
    let message = format!("{:#}", gate::check(b"not an object").expect_err("no ELF file"));
    assert!(message.contains("not an ELF file"), "{message}");
}

struct Elf(Object<'static>);

impl Elf {
    fn new() -> Self {
        Self(Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little))
    }

    /// Two instructions under this name, in a section of their own.
    fn function(&mut self, section: &str, name: &str) -> (SectionId, SymbolId) {
        let section = self.0.add_section(vec![], section.into(), SectionKind::Text);
        self.0.append_section_data(section, &[0; 16], 8);
        let symbol = self.0.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size: 16,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        (section, symbol)
    }

    fn relocation(&mut self, section: SectionId, symbol: SymbolId, r_type: u32) {
        let flags = RelocationFlags::Elf { r_type };
        self.0
            .add_relocation(section, Relocation { offset: 8, symbol, addend: 0, flags })
            .expect("the section takes relocations");
    }

    fn verdict(&self) -> anyhow::Result<()> {
        gate::check(&self.0.write().expect("the object can be written"))
    }
}
