//! The emulator's command line.
//!
//! Two serial ports: the kernel's console, and the guest's report. No disk. No
//! network either, but for the suites that ask for cards: those are wired to each
//! other inside the emulator, and to nothing else. Hardware virtualisation is never used:
//! not every machine that tests has it, and on some it only seems to work.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use tunless_vm::{
    command_line::Job,
    suites::{
        hosts, spread,
        xdp::{self, Model, Nic},
    },
};

use super::emulator::Emulator;

/// Memory of a guest; its file system is in it twice while it boots.
const MEBIBYTES: u32 = 1024;

/// Both processors of a guest take turns in one thread. In threads of their own
/// one of them can still run what the other has just patched out of the kernel
/// (static keys, by way of `int3`), and the guest dies, about once in ten boots.
const ACCELERATOR: &str = "tcg,thread=single";

/// The kernel of a processor with "enhanced REP MOVSB" copies and clears memory by one
/// instruction a byte, of which hardware does 32 and more at a time; but the clock takes
/// each for an instruction of its own: 0.5 GB/s. Without, it is one for eight bytes.
const BY_EIGHT_BYTES: &str = "max,-erms,-fsrm";

/// Suites whose machine has network cards.
const WITH_CARDS: [&str; 2] = [xdp::SUITE.name, hosts::SUITE.name];

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
    /// What runs it.
    pub emulator: Emulator,
    /// The kernel's image.
    pub image: PathBuf,
    /// The archive that it finds its first files in.
    pub initramfs: PathBuf,
    /// What time is, inside.
    pub clock: Clock,
    /// What counts executed instructions, if anything does.
    pub profile: Option<Profile>,
    /// What the guest is to do.
    pub job: Job,
}

/// See [`tunless_profiler`](../../../tests/vm/profiler/src/lib.rs).
#[derive(Clone, Debug)]
pub struct Profile {
    /// The plugin.
    pub plugin: PathBuf,
    /// The directory it writes to.
    pub out: PathBuf,
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
    fn cpus(&self) -> usize {
        match self.job.suite.as_deref() {
            Some(suite) if suite == spread::SUITE.name => spread::CPUS,
            _ => 2,
        }
    }

    /// The command that boots it.
    pub fn command(&self, serial: Serial) -> Command {
        // Whatever becomes of us, even by SIGKILL: the emulator ends with us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(self.emulator.words());
        let cpu = match self.clock {
            Clock::Host => "max",
            Clock::Instructions => BY_EIGHT_BYTES,
        };
        command.args(["-accel", ACCELERATOR, "-cpu", cpu, "-m", &MEBIBYTES.to_string()]);
        command.args(["-display", "none", "-no-reboot", "-nodefaults", "-no-user-config"]);
        match self.clock {
            Clock::Host => command.args(["-smp", &self.cpus().to_string()]),
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
        if self.job.suite.as_deref().is_some_and(|name| WITH_CARDS.contains(&name)) {
            xdp::nics().for_each(|nic| add_nic(&mut command, nic));
        }
        if let Some(Profile { plugin, out }) = &self.profile {
            let (plugin, out) = (plugin.display(), out.display());
            command.args(["-plugin", &format!("file={plugin},out={out}")]);
        }
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        command.arg("-append").arg(self.to_string());
        command
    }
}

/// A card on its wire, which is a hub of the emulator.
///
/// virtio takes XDP into its driver only where the other end leaves checksums and
/// segments alone, as a hub must. It would like spare queues, too, but only to send
/// from XDP, which we never do; a hub has one, and the driver does with that.
fn add_nic(command: &mut Command, nic: Nic) {
    let mac = nic.mac();
    let id = format!("nic-{}", mac.replace(':', ""));
    // Hub 0 is the one that everything without a wire hangs on.
    let hub = nic.wire + 1;
    let model = match nic.model {
        Model::Virtio => {
            "virtio-net-pci,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
        }
        Model::Vmxnet3 => "vmxnet3",
    };
    command.args(["-netdev", &format!("hubport,id={id},hubid={hub}")]);
    // Nobody boots from it.
    command.args(["-device", &format!("{model},netdev={id},mac={mac},romfile=")]);
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
        arguments_for(clock, "smoke")
    }

    fn arguments_for(clock: Clock, suite: &str) -> String {
        let machine = Machine {
            emulator: Emulator::Installed,
            image: "vmlinuz".into(),
            initramfs: "archive".into(),
            clock,
            profile: None,
            job: Job { kernel: Kernel::V6_12, suite: Some(suite.into()) },
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
        assert!(arguments(Clock::Instructions).contains("-cpu max,-erms,"));
        assert!(arguments(Clock::Instructions).contains("-smp 1 -icount shift=1,sleep=off"));
        assert!(!arguments(Clock::Host).contains("-icount"));
    }

    #[test]
    fn only_suites_about_cards_have_some_and_each_wire_joins_two() {
        assert!(!arguments(Clock::Host).contains("-netdev"));
        let line = arguments_for(Clock::Host, xdp::SUITE.name);
        for hub in 1..=3 {
            let ends = line.matches(&format!(",hubid={hub} ")).count();
            assert_eq!(ends, 2, "{line}");
        }
        assert_eq!(line.matches(" -device ").count(), 6, "{line}");
        assert_eq!(line.matches("virtio-net-pci,guest_csum=off,guest_tso4=off").count(), 5);
    }

    #[test]
    fn the_job_is_on_the_kernels_command_line() {
        let line = arguments(Clock::Host);
        assert!(line.ends_with("tunless.kernel=6.12 tunless.suite=smoke"), "{line}");
    }
}
