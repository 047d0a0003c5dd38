//! Two calls of `bpf(2)` that aya does not make as we need them.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::TcAttachType;

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// Opens a pinned object. aya opens links, too, but keeps the descriptor to itself.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` (`linux/bpf.h`) that the command reads.
    #[repr(C)]
    struct Attributes {
        path: u64,
        descriptor: u32,
        flags: u32,
    }

    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = Attributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // `path` outlives the call.
    let descriptor = call(BPF_OBJ_GET, &mut attributes)?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave it to us and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The numbers of the programs on an interface's TCX hook. aya's query opens
/// each of them, which takes `CAP_SYS_ADMIN`.
pub fn tcx_programs(ifindex: u32, direction: TcAttachType) -> io::Result<Vec<u32>> {
    /// As above.
    #[repr(C)]
    struct Attributes {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        count: u32,
        reserved: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }

    // `BPF_MPROG_MAX` (kernel/bpf/mprog.c): no hook holds more.
    let mut ids = vec![0_u32; 64];
    let mut attributes = Attributes {
        target_ifindex: ifindex,
        attach_type: match direction {
            TcAttachType::Egress => BPF_TCX_EGRESS,
            _ => BPF_TCX_INGRESS,
        },
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        reserved: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    call(BPF_PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

/// `attributes` must be what `command` expects, with pointers that outlive the call.
fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is as long as we say, and ours alone.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
