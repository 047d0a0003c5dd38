//! What may be typed. One file per noun does it.

mod config;
mod counters;
mod detach;
mod doctor;
mod endpoints;
mod explain;
mod leases;
mod nodes;
mod routes;
mod routes_diff;
mod status;
mod trace;
mod version;
mod watch;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::{status::Detail, watch::Watch};
use crate::{
    bpf::{Maps, Pins},
    config::{BpffsDir, DEFAULT_PATH, file as config_file},
    daemon,
    exit::{self, Exit},
    kernel::interface_name,
    output::{self, Format},
    privilege,
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

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon: attach programs and keep everything up to date, until SIGTERM.
    ///
    /// Stopping it stops no traffic; `tunless detach` does. SIGHUP, or saving the
    /// file, applies a new configuration; a bad one is refused and the old stays.
    ///
    /// Metrics for Prometheus (`/metrics`) and health (`/healthz`, `/readyz`) are served at
    /// `http.listen`, by default 127.0.0.1:9469.
    ///
    /// The variable `RUST_LOG` sets what is logged: a level (error, warn, info, debug,
    /// trace), or levels by target (`info,dataplane_user::sources=debug`); default: info.
    /// Under systemd the log goes to the journal, with priorities.
    ///
    /// Exit code 78 (`EX_CONFIG`): the configuration file is refused, and only another one
    /// helps. Exit code 1: something else is missing, and trying again may help. Under systemd
    /// the same failure pauses longer each time; saving the file ends the pause.
    Run,
    /// Is everything in place? Exit code 3 if this node carries no pod traffic.
    ///
    /// Lists what is wrong with its level: *down* (this node carries no pod traffic; only this,
    /// lasting for 10 s, is `ready: NO`), *degraded* (some packets suffer, or would after the
    /// next change), *info*. Works while the daemon is down. `-o wide` lists every program.
    Status {
        /// Wait until the node is ready, at most so long [default: 10s].
        #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
              default_missing_value = "10s", value_parser = duration)]
        wait: Option<Duration>,
        /// Exit code 3 for a degraded node, too.
        #[arg(long)]
        strict: bool,
        /// One line.
        #[arg(long)]
        brief: bool,
    },
    /// Is everything in place, and do packets pass? Exit code 3 if a check fails.
    ///
    /// One row for each check: FAIL (packets are lost, or changes are not made), WARN, SKIP (not
    /// looked at, and why) or PASS, with what was found and what to do. Its first part is the
    /// list of problems of `tunless status`; the rest is what interfaces, sysctls, routes, maps
    /// and counters show now. Works while the daemon is down, and before it was ever started: then
    /// it shows what would be wrong with the file on this host. Changes nothing.
    ///
    /// `--peer` sends packets to a node, in and outside of the tunnel: whether IP protocol 4 passes
    /// to it and back, how large packets may be, and how long they take. The peer needs nothing for
    /// it, and may have tunless or tunl0. With a pod's address in the place of the node's, that
    /// pod is pinged, and segmentation by the NIC is tested. Where protocol 4 gets no answer,
    /// finding out in which direction it is lost takes half a minute.
    #[command(after_long_help = doctor::EXAMPLES)]
    Doctor {
        /// A node's address or name, or a pod's address; may be given several times.
        #[arg(long = "peer", value_name = "NODE|POD")]
        peers: Vec<String>,
    },
    /// What happens to a packet, step by step, and why. Exit code 3 if it, or its answer, is dropped.
    ///
    /// Runs copies of the attached programs over the live maps, and asks the kernel for its routes.
    /// Nothing is sent, no counter moves, no lease is used or renewed. One end is a pod of this node;
    /// the other may be a pod of another node, a Service or any address. Works while the daemon is down.
    ///
    /// The packet is one from the middle of a connection, so that a lease is used if there is one: where
    /// ports are not given, those of the busiest lease between both are taken.
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::Options),
    /// Pod CIDRs and their nodes.
    #[command(subcommand, visible_alias = "route")]
    Routes(RoutesCommand),
    /// The other nodes: path, MTU, traffic.
    #[command(subcommand, visible_alias = "node")]
    Nodes(NodesCommand),
    /// The local pods.
    #[command(subcommand, visible_alias = "endpoint")]
    Endpoints(EndpointsCommand),
    /// Flows that skip the kernel's stack for some seconds, because netfilter accepted them.
    #[command(subcommand, visible_alias = "lease")]
    Leases(LeasesCommand),
    /// Why packets left the programs the way they did.
    #[command(subcommand, visible_alias = "counter")]
    Counters(CountersCommand),
    /// What becomes of packets, live: each program's verdict and reason, and the kernel's drops.
    ///
    /// A line for each program that a packet meets. Packets that a program saw and the kernel then
    /// drops have a line with the kernel's reason and the function that dropped them. The same number
    /// is the same packet. Ends with Ctrl-C, `-c` or `--for`, and with how much was left out.
    ///
    /// Nothing of it is in the programs that packets meet: watching programs are put around them for as
    /// long as the command runs. Works while the daemon is down, and follows programs that a daemon
    /// replaces meanwhile.
    #[command(after_long_help = trace::EXAMPLES)]
    Trace(trace::Options),
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Remove all that tunless made: programs, pins, device, routes, nft table.
    ///
    /// Sysctls get their old values back. Traffic to remote pods ends with it, unless
    /// there is a tunl0 to carry it. Stop the daemon first.
    Detach,
    /// The versions of this program, of its maps, of the daemon that runs and of what is pinned.
    ///
    /// After an upgrade they differ until the daemon is restarted. What another user may not see is left out.
    Version,
    /// Completions for a shell: `source <(tunless completions bash)`.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand, Debug)]
enum RoutesCommand {
    /// All remote pod CIDRs.
    #[command(visible_alias = "ls")]
    List(Watch),
    /// Where a packet to this address would go.
    ///
    /// Asks the kernel, too. Exit code 3 if the packet reaches no node by us: there is no
    /// route, the node is unreachable, or a kernel route of others takes the packet elsewhere.
    Get {
        /// A pod's address.
        ip: Ipv4Addr,
    },
    /// Compare what the sources say, what we make of it, the map and the kernel.
    ///
    /// Asks every source anew, also while the daemon is down. Exit code 3 if
    /// anything differs, or a source does not answer.
    Diff {
        /// How long to wait for the sources.
        #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
        timeout: Duration,
    },
}

#[derive(Subcommand, Debug)]
enum NodesCommand {
    /// All nodes we have routes to.
    #[command(visible_alias = "ls")]
    List(Watch),
}

#[derive(Subcommand, Debug)]
enum EndpointsCommand {
    /// All local pods.
    #[command(visible_alias = "ls")]
    List(Watch),
}

#[derive(Subcommand, Debug)]
enum LeasesCommand {
    /// All that are good now, the busiest first.
    #[command(visible_alias = "ls")]
    List(Watch),
    /// End all leases: the next packet of every flow asks netfilter again.
    Flush,
}

#[derive(Subcommand, Debug)]
enum CountersCommand {
    /// Every reason that counted anything.
    ///
    /// A packet is counted once by every program that it meets: the hook is where.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        options: counters::Options,
        #[command(flatten)]
        watch: Watch,
    },
    /// Set all counters to zero.
    Flush,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Judge a file without applying it. Exit code 1 if it is refused.
    Validate {
        /// The file [default: the one of --config].
        file: Option<PathBuf>,
        /// Also check it against this host, and show what the daemon would do here.
        ///
        /// Looks at interfaces, addresses, pods and sources, changes nothing, and lists the
        /// problems that `tunless status` would.
        #[arg(long)]
        here: bool,
    },
    /// The configuration with every default filled in.
    Show {
        /// The one that the daemon uses, or used last: another one than the file's if that was refused.
        #[arg(long)]
        active: bool,
    },
    /// A commented example to start from.
    Example,
}

impl Cli {
    /// Does what was typed.
    ///
    /// # Errors
    /// What failed.
    pub fn execute(self) -> Result<Exit, Failure> {
        let is_daemon = matches!(self.command, Command::Run);
        self.dispatch().map_err(|error| {
            let exit = if is_daemon { Exit::of_daemon(&error) } else { Exit::Failed };
            Failure { error: privilege::explain(error), exit }
        })
    }

    /// Whether its output is all that the command has to report, so that it logs nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        !matches!(self.command, Command::Run | Command::Detach)
    }

    fn dispatch(self) -> Result<Exit> {
        let Self { global, command } = self;
        let format = global.output;
        if command.needs_root() {
            privilege::require()?;
        }
        match command {
            Command::Run => {
                block_on(daemon::run(&global.config, global.bpffs.as_deref()))?;
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
                watch.run(|| endpoints::list(&global.maps()?, format))
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
            Command::Counters(CountersCommand::Flush) => {
                counters::flush(&mut global.maps()?, format)
            }
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
            Command::Version => version::version(global.pins().ok().as_ref(), format),
            Command::Completions { shell } => {
                let mut command = Self::command();
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command, "tunless", &mut script);
                output::text(&String::from_utf8_lossy(&script))?;
                Ok(Exit::Ok)
            }
        }
    }
}

impl Command {
    /// Whether it looks at, or changes, what only root may.
    fn needs_root(&self) -> bool {
        match self {
            Self::Run
            | Self::Status { .. }
            | Self::Doctor { .. }
            | Self::Explain(_)
            | Self::Routes(_)
            | Self::Nodes(_)
            | Self::Endpoints(_)
            | Self::Leases(_)
            | Self::Counters(_)
            | Self::Trace(_)
            | Self::Config(
                ConfigCommand::Validate { here: true, .. } | ConfigCommand::Show { active: true },
            )
            | Self::Detach => true,
            Self::Config(
                ConfigCommand::Validate { here: false, .. }
                | ConfigCommand::Show { active: false }
                | ConfigCommand::Example,
            )
            | Self::Version
            | Self::Completions { .. } => false,
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
fn pause(text: &str) -> Result<Duration, String> {
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
