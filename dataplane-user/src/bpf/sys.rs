//! Calls of `bpf(2)` that aya does not make as we need them, and memory of maps.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr::{NonNull, null_mut},
    sync::atomic::AtomicU32,
};

use aya::{Pod, programs::TcAttachType};
use dataplane_common::IfIndex;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` (`linux/bpf.h`) that commands about a pin read.
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Opens a pinned object. aya opens links, too, but keeps the descriptor to itself.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = Pin { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // `path` outlives the call.
    call(BPF_OBJ_GET, &mut attributes).and_then(descriptor)
}

/// Takes a link off its hook; the link itself stays until its last holder lets go
/// (`kernel/bpf/syscall.c`, `link_detach`). `EINVAL`: the descriptor is of no link.
pub fn detach_link(link: &OwnedFd) -> io::Result<()> {
    call(BPF_LINK_DETACH, &mut link.as_raw_fd()).map(drop)
}

/// The part of `union bpf_attr` that commands about an element read.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    /// The value, or the next key.
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: &OwnedFd, key: Option<&[u8]>, value: *const u8) -> Self {
        Self {
            map: map.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value: value as u64,
            flags: 0,
        }
    }
}

/// Reads an element into `value`. Both must have the map's own sizes: a map of another version
/// has sizes that no type of ours has.
pub fn lookup(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    call(BPF_MAP_LOOKUP_ELEM, &mut Element::new(map, Some(key), value.as_mut_ptr())).map(drop)
}

/// Writes an element; see [`lookup`] for the sizes.
pub fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    call(BPF_MAP_UPDATE_ELEM, &mut Element::new(map, Some(key), value.as_ptr())).map(drop)
}

/// Reads the key after `key` into `next`, or the first one. Returns whether there is one; see
/// [`lookup`] for the sizes.
pub fn next_key(map: &OwnedFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    match call(BPF_MAP_GET_NEXT_KEY, &mut Element::new(map, key, next.as_mut_ptr())) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads entries of a hash map into `keys` and `values`, which have one length: from the beginning, or
/// from where another call left off (`from`). Returns how many it read, and where it left off if there
/// are more. Entries that come or go meanwhile may be read, missed or, where the map is full of
/// changes, read twice. An LRU map does not count it as a use.
///
/// `K` and `V` must have the map's own sizes. `ENOSPC`: a bucket has more entries than there is room.
pub fn lookup_batch<K: Pod, V: Pod>(
    map: &OwnedFd,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<u32>)> {
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Batch {
        from: u64,
        next: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }

    let mut next = 0_u32;
    let mut batch = Batch {
        from: from.as_ref().map_or(0, |from| &raw const *from as u64),
        next: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: map.as_raw_fd().cast_unsigned(),
        element_flags: 0,
        flags: 0,
    };
    let is_over = match call(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    Ok((batch.count as usize, (!is_over).then_some(next)))
}

/// Makes an array of one element with `size` bytes.
pub fn create_array(name: &str, size: u32) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner_map: u32,
        numa_node: u32,
        name: [u8; 16],
    }

    let mut attributes = Attributes {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: size,
        max_entries: 1,
        flags: 0,
        inner_map: 0,
        numa_node: 0,
        name: [0; 16],
    };
    // The last byte stays zero.
    for (to, from) in attributes.name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    call(BPF_MAP_CREATE, &mut attributes).and_then(descriptor)
}

/// Words at the beginning of an array that was made with `BPF_F_MMAPABLE`, in the memory that the
/// programs use.
pub struct SharedWords {
    first: NonNull<AtomicU32>,
    count: usize,
}

impl SharedWords {
    /// Maps `count` of them into this process. The kernel refuses more than the array has.
    pub fn of(map: &OwnedFd, count: usize) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let length = count * size_of::<AtomicU32>();
        // SAFETY: a new mapping, wherever the kernel puts it.
        let address =
            unsafe { libc::mmap(null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { first, count })
    }

    /// Returns them.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page-aligned, has that many words of four bytes, for which any bits are
        // a value, and is there for as long as `self`. Others write to it, too, word by word.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left. It is not refused.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<AtomicU32>()) };
    }
}

/// Pins an object.
pub fn pin(object: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let descriptor = object.as_raw_fd().cast_unsigned();
    call(BPF_OBJ_PIN, &mut Pin { path: path.as_ptr() as u64, descriptor, flags: 0 }).map(drop)
}

/// The numbers of the programs on an interface's TCX hook. aya's query opens
/// each of them, which takes `CAP_SYS_ADMIN`.
pub fn tcx_programs(ifindex: IfIndex, direction: TcAttachType) -> io::Result<Vec<u32>> {
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
        target_ifindex: ifindex.0,
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

/// Waits until every program that runs now has ended: it runs in an RCU read-side section, and this
/// waits for those (`kernel/sched/membarrier.c`).
pub fn wait_for_programs() {
    const CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // `nohz_full`: not to be had. No program is stopped for as long as this.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Gives memory that was freed back to the kernel: what is kept may lie behind it, so that the
/// allocator does not do it by itself.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns whether `bpf_skb_adjust_room` changes an IPIP packet by `delta` bytes behind its Ethernet
/// header, with these flags: asks a program of five instructions about a packet of zeros.
pub fn adjusts_room(delta: i32, flags: u32) -> io::Result<bool> {
    /// The part of `union bpf_attr` that loading reads.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
    }

    /// The part of `union bpf_attr` that a test run reads.
    #[repr(C)]
    struct Run {
        program: u32,
        returned: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }

    const SKB_ADJUST_ROOM: i32 = 50;
    const ROOM_MAC: i32 = 1;
    const ETHERNET: usize = 14;
    // `struct bpf_insn`: r1 is the packet already.
    let set =
        |register: u64, value: i32| 0xb7 | register << 8 | u64::from(value.cast_unsigned()) << 32;
    let call_helper = 0x85 | u64::from(SKB_ADJUST_ROOM.cast_unsigned()) << 32;
    let exit = 0x95;
    let program = [set(2, delta), set(3, ROOM_MAC), set(4, flags.cast_signed()), call_helper, exit];
    let mut load = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"".as_ptr() as u64,
    };
    // The program outlives the call.
    let program = call(BPF_PROG_LOAD, &mut load).and_then(descriptor)?;
    let mut packet = [0_u8; ETHERNET + 60];
    packet[12] = 0x08;
    let mut run = Run {
        program: program.as_raw_fd().cast_unsigned(),
        returned: 0,
        size_in: packet.len() as u32,
        size_out: 0,
        data_in: packet.as_ptr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    call(BPF_PROG_TEST_RUN, &mut run)?;
    Ok(run.returned == 0)
}

/// Takes a descriptor that a command returned.
pub fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `attributes` must be what `command` expects, with pointers that outlive the call.
pub fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is as long as we say, and ours alone.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
