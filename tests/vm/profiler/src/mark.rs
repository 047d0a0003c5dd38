//! How the guest marks the stretch that is to be counted: by a `nop` with an operand
//! that no compiler chooses (Intel SDM 2B, "NOP": the multi-byte form).

use std::arch::asm;

/// `nop dword ptr [rax + rax + OPERAND]` without the operand.
const NOP: [u8; 4] = [0x0f, 0x1f, 0x84, 0x00];
const START_OPERAND: u32 = 0x5455_4e31;
const STOP_OPERAND: u32 = 0x5455_4e32;

/// As they lie in memory.
pub(crate) const START: &[u8] = &instruction(START_OPERAND);
pub(crate) const STOP: &[u8] = &instruction(STOP_OPERAND);

const fn instruction(operand: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (NOP, operand.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// From here on.
#[inline(never)]
pub fn start() {
    // SAFETY: does nothing.
    unsafe { asm!("nop dword ptr [rax + rax + {}]", const START_OPERAND) };
}

/// Up to here.
#[inline(never)]
pub fn stop() {
    // SAFETY: does nothing.
    unsafe { asm!("nop dword ptr [rax + rax + {}]", const STOP_OPERAND) };
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    /// The assembler writes what the profiler looks for.
    #[test]
    fn each_mark_is_in_its_function_alone() {
        let has = |function: fn(), mark: &[u8]| {
            // SAFETY: the code of a program can be read, and more of it follows these.
            let code = unsafe { slice::from_raw_parts(function as *const u8, 16) };
            code.windows(mark.len()).any(|bytes| bytes == mark)
        };
        assert!(has(start, START) && has(stop, STOP));
        assert!(!has(start, STOP) && !has(stop, START));
    }
}
