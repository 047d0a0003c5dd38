//! Operation codes of eBPF's instructions (RFC 9669), those that tests write themselves.

/// Adds a number to a register.
pub const ADD: u8 = 0x07;
/// Jumps if a register equals a number.
pub const IF_EQUAL: u8 = 0x15;
/// Loads 64 bits: an instruction of two, for a map with 1 (`BPF_PSEUDO_MAP_FD`) as its source.
pub const LOAD_MAP: u8 = 0x18;
/// Jumps if a register is greater than another.
pub const IF_GREATER: u8 = 0x2d;
/// Jumps if a register does not equal a number.
pub const IF_NOT_EQUAL: u8 = 0x55;
/// Jumps if the lower 32 bits of a register do not equal a number.
pub const IF_WORD_NOT_EQUAL: u8 = 0x56;
/// Loads 32 bits of memory.
pub const LOAD_WORD: u8 = 0x61;
/// Stores a number in 32 bits of memory.
pub const STORE_NUMBER: u8 = 0x62;
/// Stores a register in 32 bits of memory.
pub const STORE_WORD: u8 = 0x63;
/// Loads 16 bits of memory.
pub const LOAD_HALF: u8 = 0x69;
/// Calls a helper of the kernel's.
pub const CALL: u8 = 0x85;
/// Ends the program; its answer is in register 0.
pub const EXIT: u8 = 0x95;
/// Sets a register to a number.
pub const MOVE: u8 = 0xb7;
/// Sets a register to another.
pub const COPY: u8 = 0xbf;
/// Adds a register to 64 bits of memory, atomically.
pub const ATOMIC_ADD: u8 = 0xdb;
