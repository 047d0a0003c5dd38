//! What a TC program of others answers, read from its instructions: is it proven to pass every packet
//! on to the next program?
//!
//! The instructions are those that the kernel keeps of a program that it runs: what its verifier left
//! (`kernel/bpf/verifier.c`, since 7.1 `fixups.c`), with the functions behind the main program. They were
//! compared for 6.1, 6.12 and 7.x. Only what leads a program elsewhere or ends it matters here, and of
//! that only what is known is accepted:
//!
//! | instruction | here |
//! |---|---|
//! | jumps with a distance, `gotol` | followed |
//! | calls of helpers | return, whatever they do |
//! | calls of functions | where the main program ends; `jit_subprogs` leaves distance and number of the function in `off` and `imm` (seen up to 6.18), or the other way about (7.2) |
//! | references to functions (callbacks) | the same; the distance is in `imm` |
//! | `exit` | an answer |
//! | tail calls (0xf5) | another program answers |
//! | kernel functions (source 2) | one of them, `bpf_throw`, ends the program with any answer |
//! | `gotox` (0x0d) | leads to any place of a table |
//! | calls in the interpreter (0xe5) | a machine without a JIT: its distances differ between versions |
//! | anything else of these classes | unknown |
//!
//! `may_goto` and `LD_ABS` are rewritten by the verifier into what is above. Loads that may fault
//! (`PROBE_MEM`, arenas) go on with 0. With `net.core.bpf_jit_harden=2` constants of programs without
//! functions are hidden, and no such program is proven.
//! `fentry`, `fexit` and `fmod_ret` cannot change what a BPF program answers
//! (`bpf_check_attach_target`); `freplace` can, which [`super::foreign`] looks for.
//!
//! Only the answer is proven. Which helpers a program calls is not read (they are addresses), so a proven
//! program may still change packets: it has to come before ours, where each packet meets it.

use std::collections::BTreeSet;

/// One instruction, `struct bpf_insn`.
#[derive(Clone, Copy)]
struct Instruction(u64);

impl Instruction {
    fn code(self) -> u64 {
        self.0 & 0xff
    }

    fn target_register(self) -> u64 {
        self.0 >> 8 & 0xf
    }

    fn source_register(self) -> u64 {
        self.0 >> 12 & 0xf
    }

    fn offset(self) -> i64 {
        i64::from((self.0 >> 16) as i16)
    }

    fn immediate(self) -> i64 {
        i64::from((self.0 >> 32) as i32)
    }

    /// Returns where it leads; `None`: that is not known.
    fn leads(self) -> Option<Leads> {
        const IF: [u64; 11] = [0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0xa, 0xb, 0xc, 0xd];
        let (code, source) = (self.code(), self.source_register());
        let is_condition = IF.contains(&(code >> 4));
        match code & 0x07 {
            JUMP | JUMP32 if is_condition => Some(Leads::To(self.offset())),
            _ => match (code, source) {
                (SHORT_JUMP, _) => Some(Leads::To(self.offset())),
                (LONG_JUMP, _) => Some(Leads::To(self.immediate())),
                (EXIT, _) => Some(Leads::Out),
                (CALL, HELPER) if self.immediate() != TAIL_CALL => Some(Leads::On),
                (CALL, OWN_FUNCTION) => Some(Leads::ToFunction([self.offset(), self.immediate()])),
                (CONSTANT, FUNCTION_REFERENCE) => Some(Leads::ToFunction([self.immediate(); 2])),
                (CONSTANT | SECOND_HALF, 0) => Some(Leads::On),
                _ => (!matches!(code & 0x07, LOAD | JUMP | JUMP32)).then_some(Leads::On),
            },
        }
    }
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leads {
    /// The next one.
    On,
    /// The next one, or one at this distance from it.
    To(i64),
    /// The next one, while the function that begins at this distance from it is the program's own: as
    /// one kernel writes it, and as another does.
    ToFunction([i64; 2]),
    /// The end.
    Out,
}

/// Classes of instructions: loads of constants and packets, jumps on 64 and on 32 bits.
const LOAD: u64 = 0x00;
const JUMP: u64 = 0x05;
const JUMP32: u64 = 0x06;

/// A constant of 64 bits takes two instructions.
const CONSTANT: u64 = 0x18;
const SECOND_HALF: u64 = 0x00;
const SHORT_JUMP: u64 = 0x05;
/// `gotol`, whose distance is the immediate.
const LONG_JUMP: u64 = 0x06;
const CALL: u64 = 0x85;
const EXIT: u64 = 0x95;
/// The source register of a call of a helper.
const HELPER: u64 = 0;
/// `BPF_PSEUDO_CALL`: of a function of the program.
const OWN_FUNCTION: u64 = 1;
/// `BPF_PSEUDO_FUNC`: a constant that is the address of one.
const FUNCTION_REFERENCE: u64 = 4;
/// `BPF_FUNC_tail_call`, as translated instructions have it.
const TAIL_CALL: i64 = 12;
/// Of longer programs nothing is proven: distances to functions are 16 bits (`jit_subprogs`).
pub const MOST: usize = i16::MAX as usize;

/// Returns whether a program with these instructions always returns -1, `TC_ACT_UNSPEC` and
/// `TCX_NEXT`: every `exit` of its main function comes right after an instruction that sets r0 to -1, no
/// jump leads between the two, and nothing in it leads to where is not known. `false`: it is not proven.
#[must_use]
pub fn always_passes_on(instructions: &[u64]) -> bool {
    let all: Vec<Instruction> = instructions.iter().copied().map(Instruction).collect();
    if all.len() > MOST {
        return false;
    }
    let Some(leads) = all.iter().map(|it| it.leads()).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let Some(end) = main_ends(&leads) else { return false };
    let (main, leads) = (&all[..end], &leads[..end]);
    let targets: BTreeSet<i64> = (1..)
        .zip(leads)
        .filter_map(|(next, leads)| match leads {
            Leads::To(distance) => Some(next + distance),
            _ => None,
        })
        .collect();
    let mut exits =
        (0_i64..).zip(leads).enumerate().filter(|(_, (_, it))| **it == Leads::Out).peekable();
    exits.peek().is_some()
        && exits
            .all(|(at, (address, _))| !targets.contains(&address) && sets_minus_one(&main[..at]))
}

/// Returns how many instructions come before the first function, or more than that: which kernel wrote the
/// distances is not known, so the longer of two answers counts. `None` if both make no sense.
fn main_ends(leads: &[Leads]) -> Option<usize> {
    [0, 1].into_iter().filter_map(|kernel| main_ends_by(leads, kernel)).max()
}

/// As [`main_ends`], with the distances of one kernel; `None` if one is out of range.
fn main_ends_by(leads: &[Leads], kernel: usize) -> Option<usize> {
    let mut end = leads.len();
    for (next, lead) in (1..).zip(leads) {
        let Leads::ToFunction(distances) = lead else { continue };
        let begins = usize::try_from(next + distances[kernel]).ok();
        // A call inside a later function may lead back, but never into the main one.
        end = end.min(begins.filter(|begins| (1..leads.len()).contains(begins))?);
    }
    Some(end)
}

/// Whether the last of these sets the lower half of r0, which is the answer, to -1.
fn sets_minus_one(before: &[Instruction]) -> bool {
    /// `r0 = NUMBER` in 64 and 32 bits.
    const MOVE: [u64; 2] = [0xb7, 0xb4];
    let is_minus_one = |it: Instruction| it.target_register() == 0 && it.immediate() == -1;
    match *before {
        [.., first, last] if first.code() == CONSTANT => {
            last.code() == SECOND_HALF && first.source_register() == 0 && is_minus_one(first)
        }
        [.., last] => {
            MOVE.contains(&last.code()) && last.source_register() == 0 && is_minus_one(last)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
        u64::from(code)
            | u64::from(to | from << 4) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(number.cast_unsigned()) << 32
    }

    fn set(to: u8, number: i32) -> u64 {
        instruction(0xb7, to, 0, 0, number)
    }

    fn jump_if_zero(register: u8, offset: i16) -> u64 {
        instruction(0x15, register, 0, offset, 0)
    }

    #[test]
    fn only_what_passes_every_packet_on_is_proven() {
        let exit = instruction(EXIT as u8, 0, 0, 0, 0);
        let set32 = instruction(0xb4, 0, 0, 0, -1);
        let constant = [instruction(0x18, 0, 0, 0, -1), 0];
        let tail = instruction(CALL as u8, 0, 0, 0, 12);
        let helper = instruction(CALL as u8, 0, 0, 0, 0x1234);
        let own = |offset| instruction(CALL as u8, 0, 1, offset, 1);
        // As 7.2 writes it: the number of the function, and the distance.
        let own_since = |number| instruction(CALL as u8, 0, 1, 1, number);
        let raw =
            |code: u64, from, offset, number| instruction(code as u8, 0, from, offset, number);
        let last = || vec![set(0, -1), exit];
        let after = |first: u64| [vec![first], last()].concat();
        for (what, program, expected) in [
            ("passes on", vec![set(0, -1), exit], true),
            ("32 bits", vec![set32, exit], true),
            ("a constant", [&constant[..], &[exit]].concat(), true),
            ("calls a helper first", vec![helper, set(0, -1), exit], true),
            ("a jump to the answer", vec![jump_if_zero(1, 0), set(0, -1), exit], true),
            ("two answers", vec![jump_if_zero(1, 2), set(0, -1), exit, set32, exit], true),
            // Its function may answer what it likes.
            ("a function", vec![own(2), set(0, -1), exit, set(0, 2), exit], true),
            ("a function, 7.2", vec![own_since(2), set(0, -1), exit, set(0, 2), exit], true),
            (
                "drops behind the call of a function",
                vec![
                    jump_if_zero(1, 2),
                    set(0, -1),
                    exit,
                    own(3),
                    set(0, -1),
                    set(0, 2),
                    exit,
                    exit,
                ],
                false,
            ),
            (
                "drops behind the call of a function, 7.2",
                vec![
                    jump_if_zero(1, 2),
                    set(0, -1),
                    exit,
                    own_since(3),
                    set(0, -1),
                    set(0, 2),
                    exit,
                    exit,
                ],
                false,
            ),
            (
                "a function that calls one before it, 7.2",
                [vec![own_since(4)], last(), vec![set(0, 2), exit, own_since(-3), exit]].concat(),
                true,
            ),
            ("drops", vec![set(0, 2), exit], false),
            ("OK, which ends the chain", vec![set(0, 0), exit], false),
            ("drops some", vec![jump_if_zero(1, 2), set(0, -1), exit, set(0, 2), exit], false),
            (
                "a jump past the answer",
                vec![set(0, 2), jump_if_zero(1, 1), set(0, -1), exit],
                false,
            ),
            ("a helper's answer", vec![helper, exit], false),
            ("another register", vec![set(0, 2), set(1, -1), exit], false),
            ("a tail call", vec![tail, set(0, -1), exit], false),
            ("a function's answer", vec![own(1), exit, set(0, -1), exit], false),
            ("a call to before the program", after(raw(CALL, 1, -1, -1)), false),
            ("a call to behind the program", after(raw(CALL, 1, 7, 7)), false),
            ("drops on one way", vec![jump_if_zero(1, 1), set(0, -1), exit], false),
            ("a long jump past the answer", after(raw(0x06, 0, 0, 1)), false),
            ("a short jump past the answer", after(raw(0x05, 0, 1, 0)), false),
            ("a jump by 32 bits past the answer", after(raw(0x16, 0, 1, 0)), false),
            // What the kernel keeps, where it differs from what it shows.
            ("a helper far away", after(raw(CALL, 0, 0, -0x1234)), true),
            ("a load that may fault", after(raw(0x39, 1, 8, 0)), true),
            ("an arena's load", after(raw(0xb9, 1, 8, 0)), true),
            ("an atomic addition", after(raw(0xdb, 1, 0, 0)), true),
            ("a barrier to speculation", after(raw(0xc2, 0, 0, 0)), true),
            (
                "a map's address",
                [vec![raw(0x18, 0, 0, 0x1234), 0x8888 << 32], last()].concat(),
                true,
            ),
            (
                "a map's address that looks like a jump",
                [vec![raw(0x18, 0, 0, 0), u64::from(u32::MAX) << 32], last()].concat(),
                true,
            ),
            (
                "a callback that answers otherwise",
                [vec![raw(0x18, 4, 0, 4), 1 << 32, helper], last(), vec![set(0, 2), exit]].concat(),
                true,
            ),
            (
                "a callback's answer",
                [vec![raw(0x18, 4, 0, 3), 1 << 32, helper, exit], last()].concat(),
                false,
            ),
            ("a callback before the program", after(raw(0x18, 4, 0, -2)), false),
            ("a tail call", after(raw(0xf5, 0, 0, 0)), false),
            (
                "a tail call in a function",
                [vec![own(2)], last(), vec![raw(0xf5, 0, 0, 0), exit]].concat(),
                false,
            ),
            ("a function of the kernel", after(raw(CALL, 2, 0, 0x1234)), false),
            (
                "a function of the kernel in a function",
                [vec![own(2)], last(), vec![raw(CALL, 2, 0, 7), exit]].concat(),
                false,
            ),
            ("a call by register", after(raw(0x8d, 0, 0, 0)), false),
            ("a jump by a table", after(raw(0x0d, 0, 0, 0)), false),
            ("a call in the interpreter", after(raw(0xe5, 1, 3, 0)), false),
            ("a jump that is not known", after(raw(0xf6, 0, 0, 0)), false),
            ("a load of a packet, not rewritten", after(raw(0x20, 0, 0, 0)), false),
            ("a constant that is not known", after(raw(0x18, 5, 0, 0)), false),
            (
                "a hidden constant",
                vec![
                    raw(0xb7, 0, 0, 77) | 11 << 8,
                    raw(0xa7, 0, 0, 5) | 11 << 8,
                    raw(0xbf, 11, 0, 0),
                    exit,
                ],
                false,
            ),
            ("nothing", vec![], false),
            ("no exit", vec![set(0, -1)], false),
        ] {
            assert_eq!(always_passes_on(&program), expected, "{what}");
        }
        let mut long = vec![set(1, 0); MOST];
        long.extend([set(0, -1), exit]);
        assert!(!always_passes_on(&long), "distances are cut off");
    }
}
