//! Less than root: capabilities are a thread's own, so a test can lay them down.

use nix::libc;

use super::netns::check;

/// Manages networks, TC and XDP.
pub const NET_ADMIN: u32 = 12;
/// Opens raw sockets.
pub const NET_RAW: u32 = 13;
/// Lets programs do pointer arithmetic without speculation barriers.
pub const PERFMON: u32 = 38;
/// Loads programs, makes maps.
pub const BPF: u32 = 39;

/// `struct __user_cap_header_struct` of `<linux/capability.h>`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, one for each 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps `capabilities` and no other, in this thread and for good.
pub fn keep_only(capabilities: &[u32]) {
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    for capability in capabilities {
        let half = &mut data[(capability / 32) as usize];
        half.effective |= 1 << (capability % 32);
        half.permitted |= 1 << (capability % 32);
    }
    // SAFETY: both structures are as the kernel wants them and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check(result as libc::c_int, "capset");
}
