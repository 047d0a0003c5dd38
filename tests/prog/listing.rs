//! The iterator that reads programs of others, beside what the kernel shows root of the same programs.

use std::os::fd::OwnedFd;

use dataplane_user::bpf::{foreign::Reader, listing::Listing, sys};
use tunless_lab::bpf::{
    self, id_of, instruction, load_named_classifier,
    opcode::{CALL, LOAD_MAP, MOVE},
    raw,
    watcher::{DROP, ON, answer, long, with_function},
};
use tunless_tests::{
    capabilities::{BPF, NET_ADMIN, NET_RAW, PERFMON, keep_only},
    scene::{SOON, until},
};

fn with_tail_call(programs: &OwnedFd) -> Vec<u64> {
    const TAIL_CALL: i32 = 12;
    let map = i32::try_from(raw(programs)).unwrap();
    let mut program = vec![
        instruction(LOAD_MAP, 2, 1, 0, map),
        0,
        instruction(MOVE, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, TAIL_CALL),
    ];
    program.extend(answer(ON));
    program
}

/// `BPF_MAP_TYPE_PROG_ARRAY` with one place.
fn program_array() -> OwnedFd {
    const CREATE: i32 = 0;
    // Type, sizes of key and value, how many entries.
    bpf::open(CREATE, &mut [3_u32, 4, 4, 1]).unwrap()
}

fn load(name: &str, program: &[u64]) -> (u32, OwnedFd) {
    let loaded = load_named_classifier(name, program).unwrap();
    (id_of(&loaded).unwrap(), loaded)
}

/// With what the unit has the daemon reads each program as it is.
#[test]
fn programs_of_others_are_read_without_sys_admin() {
    let array = program_array();
    let cases = [
        ("lab_on", answer(ON).to_vec(), true),
        ("lab_drop", answer(DROP).to_vec(), false),
        ("lab_long_on", long(ON), true),
        ("lab_long_drop", long(DROP), false),
        ("lab_function_on", with_function(ON, DROP), true),
        ("lab_function_dr", with_function(DROP, ON), false),
        ("lab_tail_call", with_tail_call(&array), false),
    ];
    let loaded = cases.map(|(name, program, passes_on)| (name, load(name, &program), passes_on));
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            keep_only(&[NET_ADMIN, NET_RAW, PERFMON, BPF]);
            let mut reader = Reader::default();
            let ids = loaded.iter().map(|(_, (id, _), _)| *id).collect();
            // Read, and remembered.
            for _ in 0..2 {
                let read = reader.read(&ids);
                assert!(!read.misses_any(&ids));
                for (name, (id, _), passes_on) in &loaded {
                    let shown = read.get(*id).unwrap();
                    assert_eq!((&*shown.name, shown.passes_on), (*name, *passes_on));
                }
            }
        });
        confined.join().expect("it reads with the unit's capabilities");
    });
}

#[test]
fn what_is_unloaded_is_missed_and_forgotten() {
    let (stays, _program) = load("lab_stays", &answer(ON));
    let (goes, program) = load("lab_goes", &answer(ON));
    let both = [stays, goes].into();
    let mut reader = Reader::default();
    assert!(!reader.read(&both).misses_any(&both));
    drop(program);
    // The kernel frees it after a grace period.
    until("it is gone", SOON, || {
        let read = reader.read(&both);
        assert!(read.get(stays).unwrap().passes_on);
        read.misses_any(&both).then_some(())
    });
    assert!(reader.read(&both).get(goes).is_err_and(|why| why.contains("unloaded")));
    assert_eq!(Listing::load().unwrap().instructions(goes).unwrap(), None);
}

#[test]
fn without_the_right_to_read_the_reason_is_named() {
    let (id, _program) = load("lab_hidden", &answer(ON));
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            keep_only(&[NET_ADMIN, NET_RAW, BPF]);
            let mut reader = Reader::default();
            for _ in 0..2 {
                let read = reader.read(&[id].into());
                let why = read.get(id).unwrap_err();
                assert!(why.contains("not permitted"), "{why}");
                assert!(!read.misses_any(&[id].into()));
            }
        });
        confined.join().expect("a reason");
    });
}

/// Every program of this machine, beside what `bpftool` would show.
#[test]
fn all_programs_are_read_as_the_kernel_shows_them() {
    /// Clears what the kernel translates: the opcode of tail calls and of loads that may fault, addresses
    /// of maps, and what calls lead to.
    fn comparable(instructions: &[u64]) -> Vec<u64> {
        const TRANSLATED_TAIL_CALL: u64 = CALL as u64 | 12 << 32;
        let mut is_second = false;
        let each = instructions.iter().map(|it| {
            let (code, source) = (it & 0xff, it >> 12 & 0xf);
            let was_second = std::mem::replace(&mut is_second, code == 0x18 && source != 4);
            match code {
                _ if was_second => 0,
                0x18 if source != 4 => it & 0x0fff,
                0xf5 => TRANSLATED_TAIL_CALL & 0xff,
                0x85 if source == 0 => code,
                0x85 => it & 0xffff_ffff,
                // Loads with `BPF_PROBE_MEM`.
                0x20..=0x3f if code & 7 == 1 => (it & !0xe0) | 0x60,
                _ => *it,
            }
        });
        each.collect()
    }

    let array = program_array();
    let _some = [
        load("lab_all_long", &long(ON)),
        load("lab_all_function", &with_function(ON, DROP)),
        load("lab_all_tail", &with_tail_call(&array)),
    ];
    let _watched = sys::create_array("lab_all", 8).unwrap();
    let mut listing = Listing::load().unwrap();
    let listed = listing.all().unwrap();
    let mut compared = 0;
    for program in bpf::programs().unwrap() {
        // Other tests load and unload meanwhile.
        let Some(it) = listed.get(&program.id) else { continue };
        assert_eq!(it.name, program.name, "{}", program.id);
        let Ok(shown) = bpf::instructions(program.id) else { continue };
        let Some(read) = listing.instructions(program.id).unwrap() else { continue };
        assert_eq!(read.len(), it.count as usize, "{}", program.name);
        assert_eq!(comparable(&read), comparable(&shown), "{}", program.name);
        compared += 1;
    }
    assert!(compared >= 3, "only {compared} programs were compared");
}
