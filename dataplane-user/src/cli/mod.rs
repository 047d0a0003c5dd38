//! What may be typed. One file per noun does it.

mod attempt;
mod command;
mod config;
mod counters;
mod counters_summary;
mod detach;
mod doctor;
mod endpoints;
mod explain;
mod leases;
mod man;
mod nodes;
mod routes;
mod routes_diff;
mod schema;
mod shadow;
mod status;
mod trace;
mod version;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};
use clap::{Args, CommandFactory as _, Parser};

use self::{
    command::{
        Command, ConfigCommand, CountersCommand, EndpointsCommand, LeasesCommand, NodesCommand,
        RoutesCommand,
    },
    status::Detail,
};
use crate::{
    bpf::{Maps, Pins},
    config::{BpffsDir, DEFAULT_PATH, file as config_file},
    container, daemon,
    exit::{self, Exit},
    kernel::interface_name,
    output::{self, Format},
    privilege, top,
};

/// IP-in-IP between Calico nodes without the kernel's tunl0.
///
/// eBPF programs on the pods' and the host's interfaces encapsulate and decapsulate packets;
/// `tunless run`, the daemon, keeps programs, maps and routes as they should be. Every other
/// command reads what is pinned, so it works while the daemon is down.
#[derive(Parser, Debug)]
#[command(name = "tunless", version, propagate_version = true, after_help = exit::MEANINGS)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What failed, and the exit status for it.
#[derive(Debug)]
pub struct Failure {
    /// To be reported as a chain.
    pub error: Error,
    /// How the process ends.
    pub exit: Exit,
}

#[derive(Args, Debug)]
struct Global {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,

    /// The directory of pins; wins over the file's `bpffs`.
    #[arg(long, global = true, value_name = "DIR")]
    bpffs: Option<PathBuf>,

    /// How results are printed.
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// What failed.
    pub fn execute(self) -> Result<Exit, Failure> {
        let is_daemon = self.command.is_daemon();
        self.dispatch().map_err(|error| {
            let exit = if is_daemon { Exit::of_daemon(&error) } else { Exit::Failed };
            Failure { error: privilege::explain(error), exit }
        })
    }

    /// Whether its output is all that the command has to report, so that it logs nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        !self.command.is_daemon() && !matches!(self.command, Command::Detach)
    }

    fn dispatch(self) -> Result<Exit> {
        let Self { global, command } = self;
        let format = global.output;
        if command.needs_root() {
            privilege::require()?;
        }
        if command.needs_mounts() {
            container::require_mounts()?;
        }
        match command {
            Command::Run => {
                block_on(daemon::run(&global.config, global.bpffs.as_deref(), None))?;
                Ok(Exit::Ok)
            }
            Command::Try(options) if options.keep => attempt::keep(&global.pins()?, format),
            Command::Try(options) => {
                let length = Some(options.length);
                block_on(daemon::run(&global.config, global.bpffs.as_deref(), length))?;
                Ok(Exit::Ok)
            }
            Command::Status { wait, strict, brief } => {
                let detail = match (brief, format) {
                    (true, _) => Detail::Brief,
                    (false, Format::Wide) => Detail::Wide,
                    (false, _) => Detail::Usual,
                };
                let options = status::Options { wait, strict, detail };
                block_on(status::status(&global.pins()?, format, options))
            }
            Command::Doctor { peers } => {
                block_on(doctor::doctor(&global.pins()?, &global.config, &peers, format))
            }
            Command::Explain(options) => {
                block_on(explain::explain(&global.pins()?, &global.maps()?, options, format))
            }
            Command::Routes(RoutesCommand::List(watch)) => {
                watch.run(|| routes::list(&global.maps()?, format))
            }
            Command::Routes(RoutesCommand::Get { ip }) => {
                block_on(routes::get(&global.pins()?, &global.maps()?, format, ip))
            }
            Command::Routes(RoutesCommand::Diff { timeout }) => {
                let bpffs = global.bpffs.as_deref();
                block_on(routes_diff::diff(&global.config, bpffs, format, timeout))
            }
            Command::Nodes(NodesCommand::List(watch)) => {
                watch.run(|| nodes::list(&global.pins()?, &global.maps()?, format))
            }
            Command::Endpoints(EndpointsCommand::List(watch)) => {
                watch.run(|| block_on(endpoints::list(&global.maps()?, format)))
            }
            Command::Leases(LeasesCommand::List(watch)) => {
                watch.run(|| leases::list(&global.maps()?, format))
            }
            Command::Leases(LeasesCommand::Flush) => {
                leases::flush(&global.pins()?, &global.maps()?, format)
            }
            Command::Counters(CountersCommand::List { options, watch }) => {
                watch.run(|| counters::list(&global.maps()?, format, options))
            }
            Command::Counters(CountersCommand::Summary(watch)) => {
                watch.run(|| counters_summary::summary(&global.maps()?, format))
            }
            Command::Counters(CountersCommand::Flush) => {
                counters::flush(&mut global.maps()?, format)
            }
            Command::Shadow(command) => shadow::run(&command, &global.pins()?, format),
            Command::Top(options) => block_on(top::run(&global.pins()?, &global.maps()?, options)),
            Command::Trace(options) => {
                block_on(trace::trace(&global.pins()?, &global.maps()?, format, options))
            }
            Command::Config(ConfigCommand::Validate { file, here }) => {
                let path = file.as_deref().unwrap_or(&global.config);
                block_on(config::validate(path, here, global.bpffs.as_deref(), format))
            }
            Command::Config(ConfigCommand::Show { active: false }) => {
                config::show(&global.config, format)
            }
            Command::Config(ConfigCommand::Show { active: true }) => {
                config::show_active(&global.pins()?, &global.config, format)
            }
            Command::Config(ConfigCommand::Example) => config::example(),
            Command::Detach => {
                let pins = global.pins()?;
                block_on(detach::detach(&pins, format))
            }
            Command::Schema { command } => schema::print(&command),
            Command::Version => version::version(global.pins().ok().as_ref(), format),
            Command::Completions { shell } => {
                let mut command = Self::command();
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command, "tunless", &mut script);
                output::text(&String::from_utf8_lossy(&script))?;
                Ok(Exit::Ok)
            }
            Command::Man { directory } => man::write(Self::command(), &directory),
        }
    }
}

impl Global {
    /// The pins: as typed, else as the file says, else the default place.
    fn pins(&self) -> Result<Pins> {
        if let Some(directory) = &self.bpffs {
            return Ok(Pins::new(directory));
        }
        let is_default = self.config == Path::new(DEFAULT_PATH);
        if is_default && self.config.try_exists().is_ok_and(|exists| !exists) {
            return Ok(Pins::new(BpffsDir::default().as_ref()));
        }
        Ok(Pins::new(config_file::bpffs(&self.config)?.as_ref()))
    }

    /// The maps, if a daemon ever ran.
    fn maps(&self) -> Result<Maps> {
        let pins = self.pins()?;
        if !pins.exist() {
            bail!(
                "nothing is pinned at {}: start the daemon (`systemctl start tunless`), or name \
                 its directory with --bpffs",
                pins.root().display()
            );
        }
        refuse_other_version(&pins)?;
        let maps = Maps::open(&pins)?;
        if !daemon::is_running(&pins) {
            eprintln!("the daemon is not running; this is what it left");
        }
        Ok(maps)
    }
}

/// Right after an upgrade, the daemon that runs is still the old one.
fn refuse_other_version(pins: &Pins) -> Result<()> {
    let ours = pins.maps();
    if ours.try_exists().with_context(|| ours.display().to_string())? {
        return Ok(());
    }
    let others = pins.other_versions().with_context(|| pins.root().display().to_string())?;
    let Some(other) = others.first() else { return Ok(()) };
    bail!(
        "the maps in {} are of another version, this command reads those in {}; restart the \
         daemon (`systemctl restart tunless`), or use the command that came with it",
        other.display(),
        ours.display()
    )
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(future)
}

/// `10s`, `2m`, `500ms`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is no time; write one like 10s"))?;
    match unit {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => number
            .checked_mul(60)
            .map(Duration::from_secs)
            .ok_or_else(|| format!("`{text}` is longer than anybody waits")),
        _ => Err(format!("`{unit}` is no unit of time; use ms, s or m")),
    }
}

/// As [`duration`], and not nothing.
pub(crate) fn pause(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be longer than nothing".to_owned()),
        pause => Ok(pause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn waits_are_written_as_people_do() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "s", "10 s", "1h", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        let cli = |arguments: &[&str]| Cli::try_parse_from(arguments).map(|cli| cli.command);
        assert!(matches!(
            cli(&["tunless", "status", "--wait"]),
            Ok(Command::Status { wait: Some(wait), .. }) if wait == Duration::from_secs(10)
        ));
        assert!(matches!(cli(&["tunless", "status"]), Ok(Command::Status { wait: None, .. })));
    }
}
