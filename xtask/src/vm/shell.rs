//! `cargo xtask vm shell`: the terminal becomes the guest's console.

use anyhow::{Context as _, Result, ensure};
use tunless_vm::command_line::Job;

use super::{
    ShellArguments,
    emulator::Emulator,
    initramfs, kernels,
    qemu::{Machine, Serial},
};

/// Boots the kernel and waits until its shell has ended.
pub fn run(emulator: Emulator, arguments: &ShellArguments) -> Result<()> {
    let kernel = arguments.kernel;
    let installed = kernels::get(kernel, arguments.common.refresh)?;
    let machine = Machine {
        emulator,
        image: installed.image.clone(),
        initramfs: initramfs::get(&installed, &[])?,
        clock: arguments.common.clock(),
        profile: None,
        job: Job { kernel, suite: None },
    };
    println!("vm: kernel {}; the lab is up in some seconds …", installed.release);
    let status =
        machine.command(Serial::Terminal).status().context("the emulator does not start")?;
    ensure!(status.success(), "the emulator ended with {status}");
    Ok(())
}
