//! Boots for figures: on a machine whose clock counts instructions.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use tunless_vm::{
    Kernel,
    command_line::Job,
    figures::{Figure, Symbols, TestRun},
};

use super::{
    emulator::Emulator,
    initramfs,
    kernels::{self, Installed},
    prepare,
    qemu::{Clock, Machine, Profile},
    run::run_suite,
    verdict::Progress,
};
use crate::{interrupt, workspace};

/// Of the guest's time, as the emulator is told.
pub const INSTRUCTIONS_PER_NANOSECOND: f64 = 0.5;

/// What boots for figures.
pub struct Measuring {
    emulator: Emulator,
    kernels: Vec<(Installed, PathBuf)>,
}

impl Measuring {
    /// Sets the machine up, builds, and fetches the kernels.
    ///
    /// # Errors
    /// If anything of it fails.
    pub fn prepare(kernels: &[Kernel]) -> Result<Self> {
        Self::prepare_with(kernels, &[])
    }

    /// As [`Measuring::prepare`], for guests that have more binaries: where each is in the
    /// guest, and here.
    ///
    /// # Errors
    /// As there.
    pub fn prepare_with(kernels: &[Kernel], binaries: &[(&Path, &Path)]) -> Result<Self> {
        let emulator = prepare()?;
        interrupt::watch()?;
        let get = |kernel: &Kernel| {
            let installed = kernels::get(*kernel, false)?;
            let initramfs = initramfs::get(&installed, binaries)?;
            Ok((installed, initramfs))
        };
        Ok(Self { emulator, kernels: kernels.iter().map(get).collect::<Result<_>>()? })
    }

    /// Boots for a suite; what its cases measured, and the kernel's release.
    ///
    /// # Errors
    /// If a case failed: what it measured says nothing.
    pub fn figures(&self, kernel: Kernel, suite: &str) -> Result<(String, Vec<Figure>)> {
        let (release, progress) = self.boot(kernel, suite, None)?;
        Ok((release, progress.figures))
    }

    /// Boots for a suite that runs programs by themselves; what each run took, and the
    /// kernel's release.
    ///
    /// # Errors
    /// As above.
    pub fn test_runs(&self, kernel: Kernel, suite: &str) -> Result<(String, Vec<TestRun>)> {
        let (release, progress) = self.boot(kernel, suite, None)?;
        Ok((release, progress.test_runs))
    }

    /// Boots for a suite that is profiled. The n-th stretch of its cases is the file `n`
    /// in the directory `out`; returned are the kernel's release, and case and symbols of each.
    ///
    /// # Errors
    /// If the profiler cannot be built, or a case failed.
    pub fn profile(
        &self,
        kernel: Kernel,
        suite: &str,
        out: &Path,
    ) -> Result<(String, Vec<(String, Symbols)>)> {
        workspace::build_release_of("tunless-profiler")?;
        let plugin = workspace::root().join("target/release/libtunless_profiler.so");
        let profile = Profile { plugin, out: out.to_owned() };
        let (release, progress) = self.boot(kernel, suite, Some(profile))?;
        Ok((release, progress.profiled))
    }

    fn boot(
        &self,
        kernel: Kernel,
        suite: &str,
        profile: Option<Profile>,
    ) -> Result<(String, Progress)> {
        let found = self.kernels.iter().find(|(installed, _)| installed.kernel == kernel);
        let Some((installed, initramfs)) = found else {
            bail!("kernel {} was not prepared", kernel.name())
        };
        let machine = Machine {
            emulator: self.emulator.clone(),
            image: installed.image.clone(),
            initramfs: initramfs.clone(),
            clock: Clock::Instructions,
            profile,
            job: Job { kernel, suite: Some(suite.to_owned()) },
        };
        let progress = run_suite(&installed.release, &machine)?;
        ensure!(progress.failed.is_empty(), "{suite} on {} failed", installed.release);
        Ok((installed.release.clone(), progress))
    }
}
