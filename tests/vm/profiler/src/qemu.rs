//! What we use of qemu's `qemu-plugin.h`, version 1.

use std::{
    ffi::{c_int, c_uint, c_void},
    ptr::null_mut,
    slice,
};

/// `struct qemu_plugin_tb`: a block of instructions that is being translated.
#[repr(C)]
pub struct Block([u8; 0]);

/// `struct qemu_plugin_insn`.
#[repr(C)]
pub struct Instruction([u8; 0]);

/// `QEMU_PLUGIN_INLINE_ADD_U64`.
const ADD_U64: c_int = 0;
/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(plugin: u64, call: extern "C" fn(u64, &mut Block));
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const c_void;
    fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        operation: c_int,
        counter: *mut c_void,
        summand: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// Lets `call` see every block before it runs for the first time.
pub fn on_translation(plugin: u64, call: extern "C" fn(u64, &mut Block)) {
    // SAFETY: the block that qemu passes is there as long as the call lasts.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(plugin, call) };
}

impl Block {
    /// The guest's address of its first instruction.
    pub fn address(&self) -> u64 {
        // SAFETY: a block of qemu's.
        unsafe { qemu_plugin_tb_vaddr(self) }
    }

    /// How many instructions it has.
    pub fn length(&self) -> usize {
        // SAFETY: as above.
        unsafe { qemu_plugin_tb_n_insns(self) }
    }

    /// From now on adds its length to the counter whenever it runs.
    pub fn count(&mut self, counter: &'static mut u64) {
        let (length, counter): (_, *mut u64) = (self.length() as u64, counter);
        // SAFETY: the counter is there for ever.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_inline(self, ADD_U64, counter.cast(), length);
        }
    }

    /// Its instructions.
    pub fn instructions(&mut self) -> impl Iterator<Item = &mut Instruction> {
        let block: &Self = self;
        (0..block.length()).map(move |i| {
            // SAFETY: there are as many as that.
            let instruction = unsafe { qemu_plugin_tb_get_insn(block, i) };
            // SAFETY: each is another one, and there as long as the block is.
            unsafe { &mut *instruction }
        })
    }
}

impl Instruction {
    /// As it lies in memory.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: an instruction of qemu's.
        let data = unsafe { qemu_plugin_insn_data(self) };
        // SAFETY: as above.
        let size = unsafe { qemu_plugin_insn_size(self) };
        // SAFETY: qemu says how many bytes there are.
        unsafe { slice::from_raw_parts(data.cast(), size) }
    }

    /// Calls `call` whenever it is about to run.
    pub fn on_execution(&mut self, call: extern "C" fn(c_uint, *mut c_void)) {
        // SAFETY: `call` uses no data.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self, call, NO_REGISTERS, null_mut()) };
    }
}
