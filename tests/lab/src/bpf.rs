//! `bpf(2)` for programs of a few instructions, and for what the kernel knows of
//! all programs: without a loader, so that the lab needs none.

pub mod opcode;
pub mod watcher;

use std::{
    ffi::CString,
    fs,
    io::{self, Error},
    mem::{offset_of, zeroed},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use nix::libc;

const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;

/// A program that the kernel has, and how long it ran while
/// `kernel.bpf_stats_enabled` was 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// How long all runs took, nanoseconds.
    pub nanoseconds: u64,
}

/// `struct bpf_insn`, as one number.
#[must_use]
pub fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(number.cast_unsigned()) << 32
}

/// Loads a TC program.
pub fn load_classifier(program: &[u64]) -> io::Result<OwnedFd> {
    load(SCHED_CLS, program, "")
}

/// Loads a TC program with a name of at most 15 characters.
pub fn load_named_classifier(name: &str, program: &[u64]) -> io::Result<OwnedFd> {
    load(SCHED_CLS, program, name)
}

/// Loads a TC program that drops packets of a length that no packet has, so that it cannot be proven to drop
/// nothing.
pub fn judge_by_length() -> io::Result<OwnedFd> {
    let program = [
        instruction(opcode::LOAD_WORD, 2, 1, 0, 0),
        instruction(opcode::MOVE, 0, 0, 0, -1),
        instruction(opcode::IF_EQUAL, 2, 0, 1, 1),
        instruction(opcode::EXIT, 0, 0, 0, 0),
        instruction(opcode::MOVE, 0, 0, 0, 2),
        instruction(opcode::EXIT, 0, 0, 0, 0),
    ];
    load_named_classifier("judge_by_length", &program)
}

/// Puts a TC program behind all others on an interface, by its number, in the network namespace of
/// this thread. It stays as long as the descriptor.
pub fn attach_tcx(program: &OwnedFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        relative: u64,
        revision: u64,
    }

    let mut create = Create {
        program: raw(program),
        target: ifindex,
        attach_type: hook as u32,
        flags: 0,
        relative: 0,
        revision: 0,
    };
    open(LINK_CREATE, &mut create)
}

/// The two sides of TCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

/// Loads an XDP program.
pub fn load_xdp(program: &[u64]) -> io::Result<OwnedFd> {
    load(XDP, program, "")
}

fn load(program_type: u32, program: &[u64], name: &str) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        program_type: u32,
        length: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; 16],
    }

    let license = c"GPL";
    let mut load = Load {
        program_type,
        length: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: [0; 16],
    };
    // The last byte stays zero.
    for (to, from) in load.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    open(PROG_LOAD, &mut load)
}

/// Pins a program, for `tc filter … bpf direct-action object-pinned`.
pub fn pin(program: &OwnedFd, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        descriptor: u32,
        flags: u32,
    }

    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut pin = Pin { path: path.as_ptr() as u64, descriptor: raw(program), flags: 0 };
    call(OBJ_PIN, &mut pin).map(drop)
}

/// How much memory a pinned map takes, bytes; before 6.4 an estimate
/// (`kernel/bpf/syscall.c`, `bpf_map_show_fdinfo`).
pub fn memory_of_map(pin: &Path) -> io::Result<u64> {
    #[repr(C)]
    struct Get {
        path: u64,
        descriptor: u32,
        flags: u32,
    }

    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let map = open(OBJ_GET, &mut Get { path: path.as_ptr() as u64, descriptor: 0, flags: 0 })?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", raw(&map)))?;
    let memory = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    let no_map = || io::Error::other(format!("{} is no map", pin.display()));
    memory.and_then(|bytes| bytes.trim().parse().ok()).ok_or_else(no_map)
}

/// Every program there is.
pub fn programs() -> io::Result<Vec<Program>> {
    #[repr(C)]
    struct Id {
        id: u32,
        next: u32,
        flags: u32,
    }

    let mut all = Vec::new();
    let mut at = Id { id: 0, next: 0, flags: 0 };
    loop {
        match call(PROG_GET_NEXT_ID, &mut at) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            result => result?,
        };
        let id = at.next;
        match open(PROG_GET_FD_BY_ID, &mut Id { id, next: 0, flags: 0 }) {
            // Gone since.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
            Ok(program) => all.push(info(id, &program)?),
        }
        at = Id { id, next: 0, flags: 0 };
    }
}

/// The beginning of `struct bpf_prog_info` (`linux/bpf.h`).
#[repr(C)]
struct Info {
    before_name: [u64; 8],
    name: [u8; 16],
    before_run_time: [u64; 14],
    run_time: u64,
    runs: u64,
}

const _: () = assert!(offset_of!(Info, name) == 64 && offset_of!(Info, run_time) == 192);

fn info(id: u32, program: &OwnedFd) -> io::Result<Program> {
    // SAFETY: numbers, for all of which 0 is a value.
    let mut info: Info = unsafe { zeroed() };
    ask(program, &mut info)?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Program {
        id,
        name: String::from_utf8_lossy(name).into_owned(),
        runs: info.runs,
        nanoseconds: info.run_time,
    })
}

/// Returns a program's number.
pub fn id_of(program: &OwnedFd) -> io::Result<u32> {
    // SAFETY: numbers, for all of which 0 is a value.
    let mut info: Info = unsafe { zeroed() };
    ask(program, &mut info)?;
    // Of two numbers of 32 bits, type and id, the second.
    Ok((info.before_name[0] >> 32) as u32)
}

/// Returns a program's instructions as the kernel translates them for root. It must not be one that the
/// kernel keeps back (`kernel.kptr_restrict`).
pub fn instructions(id: u32) -> io::Result<Vec<u64>> {
    let program = open(PROG_GET_FD_BY_ID, &mut [id, 0, 0])?;
    // SAFETY: numbers, for all of which 0 is a value.
    let mut info: Info = unsafe { zeroed() };
    ask(&program, &mut info)?;
    // `jited_prog_len` and `xlated_prog_len`, `jited_prog_insns`, `xlated_prog_insns`.
    let bytes = info.before_name[2] >> 32;
    let mut instructions = vec![0_u64; bytes as usize / size_of::<u64>()];
    // SAFETY: numbers, for all of which 0 is a value.
    let mut info: Info = unsafe { zeroed() };
    info.before_name[2] = bytes << 32;
    info.before_name[4] = instructions.as_mut_ptr() as u64;
    ask(&program, &mut info)?;
    Ok(instructions)
}

fn ask(program: &OwnedFd, info: &mut Info) -> io::Result<()> {
    #[repr(C)]
    struct Query {
        descriptor: u32,
        length: u32,
        info: u64,
    }

    let mut query = Query {
        descriptor: raw(program),
        length: size_of::<Info>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // `info`, and what it points to, outlive the call.
    call(OBJ_GET_INFO_BY_FD, &mut query).map(drop)
}

/// A descriptor as the kernel takes it in a structure.
#[must_use]
pub fn raw(descriptor: &OwnedFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// A command that answers with a new descriptor.
pub fn open<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave it to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Any command. `attributes` must be what it expects, with pointers that outlive the
/// call.
pub fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is as long as we say, and ours alone.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::{
        opcode::{EXIT, MOVE},
        *,
    };

    #[test]
    fn a_pinned_program_is_found_by_its_number() {
        crate::daemon::ensure_bpffs().unwrap();
        let path = Path::new("/sys/fs/bpf").join(format!("tunless-lab-bpf-{}", std::process::id()));
        let before = programs().unwrap();
        let pass = [instruction(MOVE, 0, 0, 0, -1), instruction(EXIT, 0, 0, 0, 0)];
        pin(&load_classifier(&pass).unwrap(), &path).unwrap();
        let after = programs();
        std::fs::remove_file(&path).unwrap();
        let new = |program: &&Program| !before.iter().any(|old| old.id == program.id);
        assert!(after.unwrap().iter().any(|program| new(&program) && program.name.is_empty()));
    }
}
