//! The emulator's command line.
//!
//! Two serial ports: the kernel's console, and the guest's report. Neither
//! network nor disk. Hardware virtualisation is never used: not every machine
//! that tests has it, and there are machines on which it only seems to work.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use tunless_vm::command_line::Job;

/// Memory of a guest; its file system is in it twice while it boots.
const MEBIBYTES: u32 = 1024;

/// Both processors of a guest take turns in one thread. In threads of their own
/// one of them can still run what the other has just patched out of the kernel
/// (static keys, by way of `int3`), and the guest dies, about once in ten boots.
const ACCELERATOR: &str = "tcg,thread=single";

/// What time is, inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's.
    Host,
    /// Two nanoseconds per instruction, whatever the host does meanwhile, on
    /// one processor: rates measured inside repeat.
    Instructions,
}

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel's image.
    pub image: PathBuf,
    /// The archive that it finds its first files in.
    pub initramfs: PathBuf,
    /// What time is, inside.
    pub clock: Clock,
    /// What the guest is to do.
    pub job: Job,
}

/// Where console and report go.
#[derive(Clone, Copy, Debug)]
pub enum Serial<'a> {
    /// The console to a file, the report to standard output.
    Report {
        /// The file for the console.
        console: &'a Path,
    },
    /// The console to the terminal, the report nowhere.
    Terminal,
}

impl Machine {
    /// The command that boots it.
    pub fn command(&self, serial: Serial) -> Command {
        // Whatever becomes of us, even by SIGKILL: the emulator ends with us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", ACCELERATOR, "-cpu", "max", "-m", &MEBIBYTES.to_string()]);
        command.args(["-display", "none", "-no-reboot", "-nodefaults", "-no-user-config"]);
        match self.clock {
            Clock::Host => command.args(["-smp", "2"]),
            Clock::Instructions => command.args(["-smp", "1", "-icount", "shift=1,sleep=off"]),
        };
        match serial {
            Serial::Report { console } => {
                let file = format!("file:{}", console.display());
                command.args(["-serial", &file, "-serial", "stdio"]);
            }
            Serial::Terminal => {
                command.args(["-serial", "mon:stdio", "-serial", "null"]);
            }
        }
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        command.arg("-append").arg(self.to_string());
        command
    }
}

/// The kernel's command line.
impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        // An oops ends the machine, so that it is seen. No watchdog: a slow
        // host is no lockup. No mitigations: nobody to protect from anybody.
        out.write_str(
            "console=ttyS0 oops=panic panic=-1 nowatchdog mitigations=off \
             rcupdate.rcu_cpu_stall_suppress=1 ",
        )?;
        if self.job.suite.is_none() {
            // A person waits for the prompt.
            out.write_str("quiet ")?;
        }
        out.write_str(&self.job.arguments())
    }
}

#[cfg(test)]
mod tests {
    use tunless_vm::Kernel;

    use super::*;

    fn arguments(clock: Clock) -> String {
        let machine = Machine {
            image: "vmlinuz".into(),
            initramfs: "archive".into(),
            clock,
            job: Job { kernel: Kernel::V6_12, suite: Some("smoke".into()) },
        };
        let command = machine.command(Serial::Report { console: Path::new("console.log") });
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn the_emulator_dies_with_us_and_uses_no_hardware() {
        for clock in [Clock::Host, Clock::Instructions] {
            let line = arguments(clock);
            assert!(line.starts_with("--pdeathsig KILL qemu-system-x86_64 -accel tcg,"), "{line}");
            assert!(line.contains("-no-reboot"), "a panic would boot again: {line}");
        }
    }

    #[test]
    fn counting_instructions_takes_one_processor() {
        assert!(arguments(Clock::Instructions).contains("-smp 1 -icount shift=1,sleep=off"));
        assert!(!arguments(Clock::Host).contains("-icount"));
    }

    #[test]
    fn the_job_is_on_the_kernels_command_line() {
        let line = arguments(Clock::Host);
        assert!(line.ends_with("tunless.kernel=6.12 tunless.suite=smoke"), "{line}");
    }
}
