//! The iterator over all programs of the kernel, for the names and instructions of other people's.
//!
//! Opening a program by its number takes `CAP_SYS_ADMIN`. An iterator (`kernel/bpf/prog_iter.c`) takes what
//! loading a tracing program takes, `CAP_BPF` and `CAP_PERFMON`, which the daemon has. An object of its
//! own, because it is loaded only where there is something to read.
//!
//! The kernel's structures differ from version to version; the loader finds where their fields are.
#![no_std]
#![no_main]

use core::ptr::read_volatile;

use aya_ebpf::{bindings::seq_file, btf_maps::Array, helpers::generated, macros::btf_map};
use dataplane_common::listing::{Head, Offsets, PIECE, Wanted};

/// The kernel gives the helpers only to programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Filled in by the loader; read-only from then on.
#[unsafe(no_mangle)]
static OFFSETS: Offsets =
    Offsets { kind: 0, count: 0, aux: 0, instructions: 0, id: 0, name: 0, target_kind: 0 };

/// Which instructions to write. Written by the daemon before each run.
#[btf_map]
static WANTED: Array<Wanted, 1> = Array::new();

/// Where instructions are copied to on their way.
#[btf_map]
static INSTRUCTIONS: Array<[u64; PIECE], 1> = Array::new();

/// `struct bpf_iter__bpf_prog` (`kernel/bpf/prog_iter.c`).
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    /// Null when the walk ends.
    program: *const u8,
}

/// The beginning of `struct bpf_iter_meta` (`linux/bpf.h`).
#[repr(C)]
pub struct Meta {
    output: *mut seq_file,
}

/// Writes what is known of one program.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_prog")]
pub extern "C" fn list_programs(context: &Context) -> i32 {
    if !context.program.is_null() {
        // SAFETY: the kernel's own structure; the verifier checks the access.
        let output = unsafe { (*context.meta).output };
        // What is not written is not listed: the reader counts it as unknown.
        let _ = write(output, context.program);
    }
    0
}

#[inline(always)]
fn write(output: *mut seq_file, program: *const u8) -> Option<()> {
    // SAFETY: references to parts of a static are valid to read.
    let offset = |offset: &u32| unsafe { read_volatile(offset) } as usize;
    let field = |at: usize| program.wrapping_add(at);
    let aux: *const u8 = read::<u64>(field(offset(&OFFSETS.aux)))? as *const u8;
    let aux_field = |at: usize| aux.wrapping_add(at);
    let mut head = Head {
        id: read(aux_field(offset(&OFFSETS.id)))?,
        kind: read(field(offset(&OFFSETS.kind)))?,
        target_kind: read(aux_field(offset(&OFFSETS.target_kind)))?,
        count: read(field(offset(&OFFSETS.count)))?,
        name: [
            read(aux_field(offset(&OFFSETS.name)))?,
            read(aux_field(offset(&OFFSETS.name) + size_of::<u64>()))?,
        ],
        piece: 0,
        reserved: 0,
    };
    let wanted = *WANTED.get(0)?;
    if wanted.id != head.id || wanted.from >= head.count {
        return put(output, (&raw const head).cast(), size_of::<Head>());
    }
    // The verifier has to see a comparison of the very number that is used.
    let piece = core::hint::black_box((head.count - wanted.from).min(PIECE as u32));
    if piece > PIECE as u32 {
        return None;
    }
    head.piece = piece;
    let copied = INSTRUCTIONS.get_ptr_mut(0)?.cast::<u8>();
    let first = offset(&OFFSETS.instructions) + wanted.from as usize * size_of::<u64>();
    let bytes = piece * size_of::<u64>() as u32;
    // SAFETY: `copied` has room for a whole piece. What cannot be read is an error.
    let result =
        unsafe { generated::bpf_probe_read_kernel(copied.cast(), bytes, field(first).cast()) };
    if result != 0 {
        return None;
    }
    put(output, (&raw const head).cast(), size_of::<Head>())?;
    put(output, copied, bytes as usize)
}

/// Reads a number out of the kernel's memory.
#[inline(always)]
fn read<T: Copy + Default>(from: *const u8) -> Option<T> {
    let mut value = T::default();
    // SAFETY: `value` has this size. What cannot be read is an error.
    let result = unsafe {
        generated::bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            from.cast(),
        )
    };
    (result == 0).then_some(value)
}

/// Appends to the output. If it is full the kernel runs the program again with an empty one.
#[inline(always)]
fn put(output: *mut seq_file, from: *const u8, bytes: usize) -> Option<()> {
    // SAFETY: the verifier checks that so many bytes may be read.
    let result = unsafe { generated::bpf_seq_write(output, from.cast(), bytes as u32) };
    (result == 0).then_some(())
}

/// Never in the object: the build gate refuses one that can panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
