//! What a TC program of others answers, read from its instructions: is it proven to pass every packet
//! on to the next program?
//!
//! Only the answer is proven. Which helpers a program calls cannot be read (the kernel gives their
//! addresses or nothing, `bpf_insn_prepare_dump`), so a proven program may still change packets: it has
//! to come before ours, where each packet meets it.

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

    /// The class of jumps, 64 and 32 bits.
    fn is_jump(self) -> bool {
        matches!(self.code() & 0x07, 0x05 | 0x06)
    }
}

const CALL: u64 = 0x85;
const EXIT: u64 = 0x95;
/// `gotol`, whose distance is the immediate.
const LONG_JUMP: u64 = 0x06;
/// `BPF_PSEUDO_CALL`: of a function of the program.
const OWN_FUNCTION: u64 = 1;
/// `BPF_FUNC_tail_call`: another program answers.
const TAIL_CALL: i64 = 12;
/// Distances to functions are 16 bits in the kernel's answer (`jit_subprogs`).
const MOST: usize = i16::MAX as usize;

/// Returns whether a program with these translated instructions always returns -1, `TC_ACT_UNSPEC` and
/// `TCX_NEXT`: every `exit` of its main function comes right after an instruction that sets r0 to -1, no
/// jump leads between the two, and it makes no tail call. `false`: it is not proven.
#[must_use]
pub fn always_passes_on(instructions: &[u64]) -> bool {
    let all: Vec<Instruction> = instructions.iter().copied().map(Instruction).collect();
    let is_tail_call = |it: &Instruction| it.code() == CALL && it.immediate() == TAIL_CALL;
    if all.len() > MOST || all.iter().any(|it| it.source_register() == 0 && is_tail_call(it)) {
        return false;
    }
    let Some(main) = main_function(&all) else { return false };
    let targets: Vec<i64> = (0_i64..).zip(main).filter_map(|(at, it)| jump(at, *it)).collect();
    let mut exits = main.iter().enumerate().filter(|(_, it)| it.code() == EXIT).peekable();
    exits.peek().is_some()
        && exits.all(|(at, _)| {
            let is_target = i64::try_from(at).is_ok_and(|at| targets.contains(&at));
            !is_target && main.get(..at).is_some_and(sets_minus_one)
        })
}

/// The instructions before the first function that is called; `None` if a call's target is out of range.
fn main_function(all: &[Instruction]) -> Option<&[Instruction]> {
    let calls = all
        .iter()
        .enumerate()
        .filter(|(_, it)| it.code() == CALL && it.source_register() == OWN_FUNCTION);
    let mut end = all.len();
    for (at, call) in calls {
        let begins = i64::try_from(at).ok()? + 1 + call.offset();
        // A call inside a later function may lead back, but never into the main one.
        end = end.min(usize::try_from(begins).ok().filter(|begins| *begins > 0)?);
    }
    all.get(..end)
}

/// Where a jump leads.
fn jump(at: i64, instruction: Instruction) -> Option<i64> {
    let code = instruction.code();
    if !instruction.is_jump() || code == CALL || code == EXIT {
        return None;
    }
    let distance = match code {
        LONG_JUMP => instruction.immediate(),
        _ => instruction.offset(),
    };
    Some(at + 1 + distance)
}

/// Whether the last of these sets the lower half of r0, which is the answer, to -1.
fn sets_minus_one(before: &[Instruction]) -> bool {
    /// `r0 = NUMBER` in 64 and 32 bits, and as a constant of two instructions.
    const MOVE: [u64; 2] = [0xb7, 0xb4];
    const CONSTANT: u64 = 0x18;
    let is_minus_one = |it: Instruction| it.target_register() == 0 && it.immediate() == -1;
    match *before {
        [.., first, last] if first.code() == CONSTANT => {
            last.code() == 0 && first.source_register() == 0 && is_minus_one(first)
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
        for (what, program, expected) in [
            ("passes on", vec![set(0, -1), exit], true),
            ("32 bits", vec![set32, exit], true),
            ("a constant", [&constant[..], &[exit]].concat(), true),
            ("calls a helper first", vec![helper, set(0, -1), exit], true),
            ("a jump to the answer", vec![jump_if_zero(1, 0), set(0, -1), exit], true),
            ("two answers", vec![jump_if_zero(1, 2), set(0, -1), exit, set32, exit], true),
            // Its function may answer what it likes.
            ("a function", vec![own(2), set(0, -1), exit, set(0, 2), exit], true),
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
            ("a call to before the program", vec![own(-1), set(0, -1), exit], false),
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
