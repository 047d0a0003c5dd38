//! How the guest marks the stretch that is to be counted: by a `nop` with an operand
//! that no compiler chooses (Intel SDM 2B, "NOP": the multi-byte form).

use std::arch::asm;

/// `nop dword ptr [rax + rax + 0x54554e31]`, as assembled.
pub(crate) const START: &[u8] = &[0x0f, 0x1f, 0x84, 0x00, 0x31, 0x4e, 0x55, 0x54];
/// The same with `…32`.
pub(crate) const STOP: &[u8] = &[0x0f, 0x1f, 0x84, 0x00, 0x32, 0x4e, 0x55, 0x54];

/// From here on.
#[inline(never)]
pub fn start() {
    // SAFETY: does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00, 0x31, 0x4e, 0x55, 0x54") };
}

/// Up to here.
#[inline(never)]
pub fn stop() {
    // SAFETY: does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00, 0x32, 0x4e, 0x55, 0x54") };
}
