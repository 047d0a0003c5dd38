//! The loaded programs and how they get onto their hooks.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        Program as Loaded, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use aya_log::EbpfLogger;
use dataplane_common::{Program, Settings};
use nix::net::if_::if_nametoindex;
use tokio::task::JoinHandle;

use super::{
    Attachment, Hook as _, Maps, Pins, features, filters, links, maps, pins,
    shadow::{self, ShadowMaps},
    verifier,
};
use crate::{config::Attach, object, run_dir};

/// How often what the programs logged is printed. A full ring loses lines,
/// never packets.
const LOG_INTERVAL: Duration = Duration::from_millis(200);

/// The object with its settings baked in, its programs verified and loaded.
pub struct Programs {
    ebpf: Ebpf,
    settings: Settings,
    family: Family,
    /// Capacity of `LEASES`.
    leases: u32,
    /// Prints what the programs log; ends with them.
    log: Option<Printer>,
}

/// Programs that are loaded together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Those that carry packets.
    Serving,
    /// Those that only look.
    Shadow,
}

impl Family {
    /// Its programs.
    #[must_use]
    pub const fn programs(self) -> &'static [Program] {
        match self {
            Self::Serving => &Program::SERVING,
            Self::Shadow => &Program::SHADOW,
        }
    }
}

/// A task that ends with its owner.
struct Printer(JoinHandle<()>);

impl Drop for Printer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Programs {
    /// Loads the programs onto the pinned maps, making those that are missing: those that serve, or
    /// those of `mode: shadow`. `leases`: how many there may be.
    ///
    /// # Errors
    /// If pinned maps differ, or the verifier refuses a program: then with the end of
    /// its log.
    pub fn load(
        pins: &Pins,
        settings: Settings,
        family: Family,
        leases: u32,
        logs_spoofs: bool,
    ) -> Result<Self> {
        Maps::check_pins(pins)?;
        maps::forget_other_size(pins, leases)?;
        let paths: Vec<_> = Maps::names().map(|name| (name, pins.map(name))).collect();
        // aya-log's levels: 0 is silence, 2 lets warnings through.
        let level: u8 = if logs_spoofs { 2 } else { 0 };
        let mut loader = EbpfLoader::new();
        let of_this_kernel = Settings { unwrap_flags: features::unwrap_flags(), ..settings };
        loader.override_global("SETTINGS", &of_this_kernel, true).override_global(
            aya_log::LEVEL,
            &level,
            true,
        );
        loader.map_max_entries(maps::LEASES, leases);
        if settings.service_mark == 0 {
            loader.map_max_entries(maps::SEEN, 1);
        }
        loader.map_max_entries(maps::UNANSWERED, settings.unanswered_sets);
        if family == Family::Shadow {
            shadow::size(&mut loader);
        }
        for (name, path) in &paths {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(object::DATAPLANE).context("loading the eBPF object")?;
        for (_, path) in &paths {
            pins::restrict(path)?;
        }
        let is_needed = |name: &str| family.programs().iter().any(|it| it.as_str() == name);
        for (name, program) in ebpf.programs_mut().filter(|(name, _)| is_needed(name)) {
            match program {
                Loaded::SchedClassifier(program) => program.load(),
                Loaded::Xdp(program) => program.load(),
                _ => continue,
            }
            .map_err(|error| verifier::explain(pins, name, error))?;
        }
        // Of an earlier refusal.
        run_dir::remove(&verifier::log_file(pins))?;
        let log = logs_spoofs.then(|| print_logs(&mut ebpf)).transpose()?;
        Ok(Self { ebpf, settings, family, leases, log })
    }

    /// Whether these are the programs for that.
    #[must_use]
    pub fn are_for(
        &self,
        settings: &Settings,
        family: Family,
        leases: u32,
        logs_spoofs: bool,
    ) -> bool {
        (self.settings, self.family, self.leases) == (*settings, family, leases)
            && self.log.is_some() == logs_spoofs
    }

    /// Which of them are loaded.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Takes the maps of `mode: shadow`, which no pin leads to.
    ///
    /// # Errors
    /// If they were taken before.
    pub fn take_shadow(&mut self) -> Result<ShadowMaps> {
        ShadowMaps::take(&mut self.ebpf)
    }

    /// What they were loaded with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the kernel's number for `program`.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn id(&self, program: Program) -> Result<u32> {
        let program = self.ebpf.program(program.as_str()).context("no such program")?;
        Ok(program.info()?.id())
    }

    /// Puts the program into the pinned link, in place; no packet meets an
    /// empty hook. A severed link (its interface is gone, somebody detached it)
    /// is replaced by a new one.
    ///
    /// The descriptor is closed again at once: the pin alone holds the link.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn take_over(&mut self, pins: &Pins, at: Attachment, interface: &str) -> Result<()> {
        let pin = pins.link(at.program, at.ifindex);
        let link =
            FdLink::from(PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?);
        let outcome = match at.program.tc() {
            Some(_) => {
                let link = SchedClassifierLink::try_from(link)?;
                let program = self.tc(at.program)?;
                program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop)
            }
            None => {
                let link = XdpLink::try_from(link)?;
                let program = self.xdp()?;
                program.attach_to_link(link).and_then(|id| program.take_link(id)).map(drop)
            }
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if is_severed(&error) => {
                links::end(pins, at)?;
                self.attach(pins, at, interface)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the program into our clsact filter, in place, and pins it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach_filter(&mut self, pins: &Pins, at: Attachment, interface: &str) -> Result<()> {
        let direction = at.program.tc().context("XDP has no filters")?;
        filters::attach(self.tc(at.program)?, pins, at, direction, interface)
    }

    /// Attaches the program anew and pins its link.
    ///
    /// # Errors
    /// If the kernel refuses, or the interface has been replaced by another of
    /// the same name meanwhile.
    pub fn attach(&mut self, pins: &Pins, at: Attachment, interface: &str) -> Result<()> {
        let link = match at.program.tc() {
            Some(direction) => {
                let program = self.tc(at.program)?;
                // Always by name of the mechanism: left alone, aya goes by kernel version.
                let options = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
                let id = program.attach_with_options(interface, direction, options)?;
                FdLink::try_from(program.take_link(id)?)?
            }
            None => {
                let program = self.xdp()?;
                let id = program.attach_to_if_index(at.ifindex.0, XdpMode::Driver)?;
                // Without a link the kernel would keep the program for ever.
                FdLink::try_from(program.take_link(id)?)?
            }
        };
        if if_nametoindex(interface).ok() != Some(at.ifindex.0) {
            bail!("{interface} was replaced meanwhile; the new one is next");
        }
        let pin = pins.link(at.program, at.ifindex);
        link.pin(&pin).with_context(|| format!("pinning {}", pin.display()))?;
        pins::restrict(&pin)
    }

    fn tc(&mut self, program: Program) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(program.as_str()).context("no such program")?;
        Ok(program.try_into()?)
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        let program =
            self.ebpf.program_mut(Program::DecapXdp.as_str()).context("no such program")?;
        Ok(program.try_into()?)
    }
}

/// Whether the kernel has TCX links (6.6, `CONFIG_NET_XGRESS`), by asking it, not
/// by its version.
fn has_tcx() -> bool {
    let unsupported = |error: &ProgramError| {
        matches!(error, ProgramError::SyscallError(error)
            if error.io_error.raw_os_error() == Some(libc::EINVAL))
    };
    // Reading the programs of others may be forbidden; that is an answer, too.
    !matches!(SchedClassifier::query_tcx("lo", TcAttachType::Ingress),
        Err(error) if unsupported(&error))
}

/// Whether TC programs are attached as clsact filters, not as TCX links.
#[must_use]
pub fn as_filters(attach: Attach) -> bool {
    match attach {
        Attach::Auto => !has_tcx(),
        Attach::Tcx => false,
        Attach::Clsact => true,
    }
}

/// `ENOLINK`: the link is there, its interface is not.
fn is_severed(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::ENOLINK))
}

/// Prints what the programs log, as long as this object is loaded.
fn print_logs(ebpf: &mut Ebpf) -> Result<Printer> {
    let mut logger = EbpfLogger::init(ebpf).context("opening the programs' log")?;
    Ok(Printer(tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOG_INTERVAL).await;
            logger.flush();
        }
    })))
}
