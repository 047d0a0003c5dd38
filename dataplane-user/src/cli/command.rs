//! The commands and their options, as `--help` shows them.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::Subcommand;

use super::{
    attempt, counters, doctor, duration, explain, schema, shadow::ShadowCommand, trace,
    watch::Watch,
};
use crate::top;

/// What a user may ask for.
#[derive(Subcommand, Debug)]
pub enum Command {
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
    /// Accelerate for some time beside tunl0: unless it is kept, tunl0 has all packets again after that.
    ///
    /// Does what `tunless run` does, in the foreground and with the same file, until the time is up. The
    /// programs that packets meet look at the clock themselves, so that they step aside then whatever
    /// has become of this process and of the terminal. Needs a tunl0 that carries the pods' packets
    /// (`mode: auto` or `accelerate`); uses no XDP and no RPS. Ctrl-C ends the process, not the try.
    ///
    /// When it is over, programs are attached still and leave every packet alone. Conntrack stays
    /// relaxed, so that connections survive; `tunless detach` removes and restores all of it. A daemon that is
    /// started changes nothing about the end.
    #[command(after_help = attempt::EXAMPLES)]
    Try(attempt::Options),
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
    /// Nodes, pods, reasons and leases with their rates, live, in a terminal.
    ///
    /// Each second: packets and bytes a second, and since the counters began. Sorted by any column;
    /// `1` to `4` or Tab change what is listed, `q` ends it. The figures are those of the lists (`tunless nodes
    /// list` and so on), and of `/metrics`. Works while the daemon is down.
    Top(top::Options),
    /// What tunless would do with the packets that tunl0 carries: the report of `mode: shadow`.
    ///
    /// With `mode: shadow` in its file the daemon attaches programs to the underlay's interfaces that only look:
    /// no packet, sysctl, route or nft table is changed. They compare the outer headers that tunl0 writes
    /// with those that tunless would write, judge what arrives, and count what would skip the kernel's stack.
    #[command(subcommand)]
    Shadow(ShadowCommand),
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
    /// The JSON Schema of what a command prints with `-o json`.
    ///
    /// Schemas are those of this version (draft 2020-12), so that a program that reads the output can check
    /// it. What `-o yaml` prints has the same one. Without a command the names of all are listed; `report` is
    /// the file that the daemon leaves in its run directory.
    #[command(after_help = schema::EXAMPLES)]
    Schema {
        /// Such as `status` or `routes list`.
        command: Vec<String>,
    },
    /// Completions for a shell: `source <(tunless completions bash)`.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages, one for each command, into a directory: for packages.
    #[command(hide = true)]
    Man {
        /// Where; it has to be there.
        directory: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub enum RoutesCommand {
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
pub enum NodesCommand {
    /// All nodes we have routes to.
    #[command(visible_alias = "ls")]
    List(Watch),
}

#[derive(Subcommand, Debug)]
pub enum EndpointsCommand {
    /// All local pods.
    #[command(visible_alias = "ls")]
    List(Watch),
}

#[derive(Subcommand, Debug)]
pub enum LeasesCommand {
    /// All that are good now, the busiest first.
    #[command(visible_alias = "ls")]
    List(Watch),
    /// End all leases: the next packet of every flow asks netfilter again.
    Flush,
}

#[derive(Subcommand, Debug)]
pub enum CountersCommand {
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
    /// What became of packets, from pods to the wire and back: sums, and what the kernel kept.
    ///
    /// Programs count a packet before and behind the kernel's stack. What it kept in between
    /// (NetworkPolicy, `rp_filter`) is the difference. It is the least that it can have been, because packets
    /// of the host, and of pods to each other, come out of the stack, too; `-` where no program counts one of both
    /// ends (with `fastpath: off` none is on the pods' interfaces). `tunless trace --drops` shows such packets.
    Summary(Watch),
    /// Set all counters to zero.
    Flush,
}

#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
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

impl Command {
    /// Whether it runs the daemon.
    pub fn is_daemon(&self) -> bool {
        match self {
            Self::Run => true,
            Self::Try(options) => !options.keep,
            _ => false,
        }
    }

    /// Whether it makes or restores what outlives a container.
    #[must_use]
    pub fn needs_mounts(&self) -> bool {
        self.is_daemon() || matches!(self, Self::Detach)
    }

    /// Whether it looks at, or changes, what only root may.
    pub fn needs_root(&self) -> bool {
        match self {
            Self::Run
            | Self::Try(_)
            | Self::Status { .. }
            | Self::Doctor { .. }
            | Self::Explain(_)
            | Self::Routes(_)
            | Self::Nodes(_)
            | Self::Endpoints(_)
            | Self::Leases(_)
            | Self::Counters(_)
            | Self::Shadow(_)
            | Self::Top(_)
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
            | Self::Schema { .. }
            | Self::Version
            | Self::Completions { .. }
            | Self::Man { .. } => false,
        }
    }
}
