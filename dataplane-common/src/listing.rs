//! What the iterator over all programs of the kernel (`list_programs`) writes, and what it has to know.
//!
//! It writes a [`Head`] for each program, and behind that of the [`Wanted`] one a piece of its
//! instructions. Nothing of this is pinned or shared with another version, so it is no part of the ABI.

use crate::layout::plain;

/// Instructions in a piece. An iterator writes into a buffer of eight pages, into which the output for
/// one program has to fit (`kernel/bpf/bpf_iter.c`, `bpf_seq_read`): this is half of that.
pub const PIECE: usize = 2048;

plain! {
    /// Where the kernel that runs keeps what is read, bytes from the beginning of the structure.
    pub struct Offsets {
        /// `struct bpf_prog`: its type.
        pub kind: u32,
        /// `struct bpf_prog`: how many instructions it has.
        pub count: u32,
        /// `struct bpf_prog`: the pointer to its `struct bpf_prog_aux`.
        pub aux: u32,
        /// `struct bpf_prog`: the instructions.
        pub instructions: u32,
        /// `struct bpf_prog_aux`: its number.
        pub id: u32,
        /// `struct bpf_prog_aux`: its name.
        pub name: u32,
        /// `struct bpf_prog_aux`: the type of the program that it was loaded for.
        pub target_kind: u32,
    }
}

plain! {
    /// The instructions that are asked for.
    pub struct Wanted {
        /// Of the program with this number; 0: of none.
        pub id: u32,
        /// From this one on.
        pub from: u32,
    }
}

plain! {
    /// What is known of each program. In the machine's byte order.
    pub struct Head {
        /// The kernel's number for it.
        pub id: u32,
        /// `enum bpf_prog_type` (`linux/bpf.h`).
        pub kind: u32,
        /// The type of the program that it was loaded to trace or to replace; 0 if there is none.
        pub target_kind: u32,
        /// How many instructions it has.
        pub count: u32,
        /// Its name: up to 15 characters, the rest zeros.
        pub name: [u64; 2],
        /// How many instructions follow.
        pub piece: u32,
        /// Keeps the size a multiple of 8.
        pub reserved: u32,
    }
}

const _: () = assert!(Head::LAYOUT[0] == 40, "instructions follow, which are u64");
const _: () =
    assert!(Offsets::LAYOUT[0] == 28 && Wanted::LAYOUT[0] == 8, "as the loader writes them");
