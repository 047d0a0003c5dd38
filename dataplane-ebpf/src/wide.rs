//! Numbers at any address.
//!
//! The compiler takes eBPF for a machine that reads only what is aligned, and makes a load of every byte or
//! two. The machines that run it do not mind (the verifier refuses such loads where they do,
//! `CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`), so these loads and stores are written out.

use core::arch::asm;

/// Reads eight bytes.
///
/// # Safety
/// They are there to be read.
#[inline(always)]
pub unsafe fn load64<const AT: i32>(address: usize) -> u64 {
    let value: u64;
    // SAFETY: a load from where the caller may read.
    unsafe {
        asm!(
            "{value} = *(u64 *)({address} + {at})",
            value = out(reg) value, address = in(reg) address, at = const AT,
            options(pure, readonly, nostack),
        );
    }
    value
}

/// Reads four bytes.
///
/// # Safety
/// They are there to be read.
#[inline(always)]
pub unsafe fn load32<const AT: i32>(address: usize) -> u32 {
    let value: u64;
    // SAFETY: a load from where the caller may read.
    unsafe {
        asm!(
            "{value} = *(u32 *)({address} + {at})",
            value = out(reg) value, address = in(reg) address, at = const AT,
            options(pure, readonly, nostack),
        );
    }
    // The load has cleared the upper half.
    value as u32
}

/// Writes eight bytes.
///
/// # Safety
/// They are there to be written.
#[inline(always)]
pub unsafe fn store64<const AT: i32>(address: usize, value: u64) {
    // SAFETY: a store to where the caller may write.
    unsafe {
        asm!(
            "*(u64 *)({address} + {at}) = {value}",
            value = in(reg) value, address = in(reg) address, at = const AT,
            options(nostack),
        );
    }
}

/// Writes four bytes.
///
/// # Safety
/// They are there to be written.
#[inline(always)]
pub unsafe fn store32<const AT: i32>(address: usize, value: u32) {
    // SAFETY: a store to where the caller may write.
    unsafe {
        asm!(
            "*(u32 *)({address} + {at}) = {value}",
            value = in(reg) u64::from(value), address = in(reg) address, at = const AT,
            options(nostack),
        );
    }
}
