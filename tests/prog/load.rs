//! What loading takes: rights, and the verifier's consent. How much work it is for the
//! verifier: [`super::budget`].

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use aya::{Ebpf, programs::SchedClassifier};
use dataplane_common::{Program, Settings};
use dataplane_user::{
    bpf::{Pins, verifier},
    object::DATAPLANE,
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};
use tunless_tests::{
    capabilities::{BPF, NET_ADMIN, PERFMON, keep_only},
    prog::Loaded,
    world,
};

/// The service runs with these and no others.
#[test]
fn three_capabilities_are_enough() {
    let thread = std::thread::spawn(|| {
        keep_only(&[NET_ADMIN, PERFMON, BPF]);
        for fastpath in [Settings::OFF, Settings::TRUSTED, Settings::VERIFIED] {
            drop(Loaded::new(world::settings(fastpath, Settings::SPOOF_DROP)));
        }
    });
    thread.join().expect("the object loads without CAP_SYS_ADMIN");
}

#[test]
fn the_object_holds_the_programs_and_no_others() {
    let ebpf = Ebpf::load(DATAPLANE).expect("the object can be parsed");
    let found: BTreeSet<&str> = ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(found, Program::ALL.map(Program::as_str).into());
}

/// An object with one classifier, `bad`, that returns what it never set.
fn bad_object() -> Vec<u8> {
    // `exit` (linux/bpf.h: BPF_JMP | BPF_EXIT), with nothing in r0.
    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    let value = object.append_section_data(section, &EXIT, 8);
    object.add_symbol(Symbol {
        name: b"bad".to_vec(),
        value,
        size: EXIT.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.write().expect("an object")
}

#[test]
fn a_refused_program_has_the_verifiers_reason_and_a_file_with_the_whole() {
    let mut ebpf = Ebpf::load(&bad_object()).expect("the object itself is sound");
    let program = ebpf.program_mut("bad").expect("it has this program");
    let program: &mut SchedClassifier = program.try_into().expect("a classifier");
    let error = program.load().expect_err("r0 was never set");

    let pins = Pins::new(Path::new("/sys/fs/bpf/tunless-lab-refused"));
    let text = format!("{:#}", verifier::explain(&pins, "bad", error));
    let file = verifier::log_file(&pins);
    let whole = fs::read_to_string(&file).expect("the whole log");
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
    fs::remove_file(&file).expect("it is ours");
    for said in ["the program bad", "R0 !read_ok", &file.display().to_string()] {
        assert!(text.contains(said), "no {said} in {text}");
    }
    assert!(whole.contains("R0 !read_ok"), "{whole}");
    assert_eq!(mode, 0o600);
}
