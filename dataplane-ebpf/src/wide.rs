//! Numbers at any address.
//!
//! The compiler takes eBPF for a machine that reads only what is aligned, and makes a load of every byte or
//! two. The machines that run it do not mind (the verifier refuses such loads where they do,
//! `CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS`), so these loads and stores are written out.

use core::arch::asm;

/// So many bytes of a packet. That an access stays within them is checked when it is compiled.
#[derive(Clone, Copy)]
pub struct Span<const BYTES: usize>(usize);

impl<const BYTES: usize> Span<BYTES> {
    /// Takes it from the packet.
    ///
    /// # Safety
    /// There are so many bytes at `address`, and they are ours alone to read and to write.
    #[inline(always)]
    pub unsafe fn new(address: usize) -> Self {
        Self(address)
    }

    /// Reads eight bytes.
    #[inline(always)]
    pub fn load64<const AT: usize>(self) -> u64 {
        const { assert!(AT + size_of::<u64>() <= BYTES) };
        let value: u64;
        // SAFETY: within the span.
        unsafe {
            asm!(
                "{value} = *(u64 *)({address} + {at})",
                value = out(reg) value, address = in(reg) self.0, at = const AT,
                options(pure, readonly, nostack),
            );
        }
        value
    }

    /// Reads four bytes.
    #[inline(always)]
    pub fn load32<const AT: usize>(self) -> u32 {
        const { assert!(AT + size_of::<u32>() <= BYTES) };
        let value: u64;
        // SAFETY: within the span.
        unsafe {
            asm!(
                "{value} = *(u32 *)({address} + {at})",
                value = out(reg) value, address = in(reg) self.0, at = const AT,
                options(pure, readonly, nostack),
            );
        }
        // The load has cleared the upper half.
        value as u32
    }

    /// Writes eight bytes.
    #[inline(always)]
    pub fn store64<const AT: usize>(self, value: u64) {
        const { assert!(AT + size_of::<u64>() <= BYTES) };
        // SAFETY: within the span.
        unsafe {
            asm!(
                "*(u64 *)({address} + {at}) = {value}",
                value = in(reg) value, address = in(reg) self.0, at = const AT,
                options(nostack),
            );
        }
    }

    /// Writes four bytes.
    #[inline(always)]
    pub fn store32<const AT: usize>(self, value: u32) {
        const { assert!(AT + size_of::<u32>() <= BYTES) };
        // SAFETY: within the span.
        unsafe {
            asm!(
                "*(u32 *)({address} + {at}) = {value}",
                value = in(reg) u64::from(value), address = in(reg) self.0, at = const AT,
                options(nostack),
            );
        }
    }
}

/// The same number, on this branch alone. Where a number is missing on another branch, the compiler
/// takes any register for it and may compute with that; the verifier refuses this for one that holds
/// a pointer.
#[inline(always)]
pub fn on_this_branch(number: u8) -> u8 {
    let mut same = u64::from(number);
    // SAFETY: clears bits that are clear. An instruction there must be: each has its line.
    unsafe { asm!("{0} &= 255", inout(reg) same, options(nomem, nostack)) };
    same as u8
}
