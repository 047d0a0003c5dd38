//! A plugin of the emulator (qemu's `docs/devel/tcg-plugins.rst`, API version 1): counts
//! what the guest executes between two marks, block by block.
//!
//! The guest marks a stretch by two instructions that do nothing ([`mark`]). For the
//! n-th stretch the plugin writes the file `n` into the directory it was given
//! (`out=DIRECTORY`): a line for each block of code that ran, with its address in
//! hexadecimal and how many instructions of it were executed.

pub mod mark;
mod qemu;

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    fmt::Write as _,
    fs,
    path::PathBuf,
    ptr, slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

use self::qemu::Block;

/// The version of the interface we speak, as qemu looks it up.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

static PROFILE: Mutex<Option<Profile>> = Mutex::new(None);

/// All that has been translated, and what of it ran.
struct Profile {
    out: PathBuf,
    /// By address of the block.
    executed: HashMap<u64, Counter>,
    at_start: HashMap<u64, u64>,
    stretches: u32,
}

/// How many instructions of a block were executed. Leaked: translated code adds to it
/// for as long as the emulator runs.
#[derive(Clone, Copy)]
struct Counter(*mut u64);

// SAFETY: the guest has one processor, so code that adds and code that reads never
// run at the same time.
unsafe impl Send for Counter {}

impl Counter {
    fn new() -> Self {
        Self(Box::leak(Box::new(0)))
    }

    fn get(self) -> u64 {
        // SAFETY: leaked.
        unsafe { ptr::read_volatile(self.0) }
    }
}

/// Called by qemu when it loads the plugin.
///
/// # Safety
/// As qemu calls it: `arguments` are as many strings as `count` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    plugin: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: there are as many.
    let words = unsafe { slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0)) };
    let out = words.iter().find_map(|word| {
        // SAFETY: each is a string.
        let word = unsafe { CStr::from_ptr(*word) };
        word.to_str().ok()?.strip_prefix("out=")
    });
    let Some(out) = out else {
        eprintln!("the profiler needs `out=DIRECTORY`");
        return 1;
    };
    *profile() = Some(Profile {
        out: out.into(),
        executed: HashMap::new(),
        at_start: HashMap::new(),
        stretches: 0,
    });
    qemu::on_translation(plugin, translated);
    0
}

fn profile() -> MutexGuard<'static, Option<Profile>> {
    PROFILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block is about to run for the first time, or again after it was forgotten.
extern "C" fn translated(_plugin: u64, block: &mut Block) {
    let mut profile = profile();
    let Some(profile) = profile.as_mut() else { return };
    let counter = *profile.executed.entry(block.address()).or_insert_with(Counter::new);
    // SAFETY: leaked, and nobody else has a reference to it.
    block.count(unsafe { &mut *counter.0 });
    for instruction in block.instructions() {
        match instruction.bytes() {
            mark::START => instruction.on_execution(start),
            mark::STOP => instruction.on_execution(stop),
            _ => {}
        }
    }
}

extern "C" fn start(_processor: c_uint, _data: *mut c_void) {
    if let Some(profile) = profile().as_mut() {
        profile.at_start = profile.executed.iter().map(|(at, count)| (*at, count.get())).collect();
    }
}

extern "C" fn stop(_processor: c_uint, _data: *mut c_void) {
    let mut profile = profile();
    let Some(profile) = profile.as_mut() else { return };
    profile.stretches += 1;
    let mut text = String::new();
    for (at, count) in &profile.executed {
        let executed = count.get() - profile.at_start.get(at).copied().unwrap_or(0);
        if executed != 0 {
            let _ = writeln!(text, "{at:x} {executed}");
        }
    }
    let file = profile.out.join(profile.stretches.to_string());
    if let Err(error) = fs::write(&file, text) {
        eprintln!("cannot write {}: {error}", file.display());
    }
}
