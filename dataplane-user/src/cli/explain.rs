//! `tunless explain`

use anyhow::Result;
use clap::Args;

use crate::{
    bpf::{Maps, Pins},
    exit::Exit,
    explain::{self, From, Protocol, Question, question::To},
    output::{self, Format},
};

/// For `--help`.
pub const EXAMPLES: &str = "Examples:
  tunless explain --from 10.20.105.10 --to 10.20.42.31:8080
  tunless explain --from 10.20.105.10 --to 10.20.42.31:53 --protocol udp --from-port 40000
  tunless explain --from 10.20.42.31 --to 10.20.105.10
  tunless explain --from cali1a2b3c4d5e6 --source 10.20.105.11 --to 10.20.42.31
  tunless explain --from 10.20.105.10 --to 10.20.42.31 --protocol icmp -o json";

/// What may be given.
#[derive(Args, Debug)]
pub struct Options {
    /// Who sends: a pod's address, or the interface (`cali…`) of a pod of this node.
    #[arg(long, value_name = "POD|IP")]
    from: From,
    /// Who is to receive.
    #[arg(long, value_name = "IP[:PORT]")]
    to: To,
    /// What is sent.
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: Protocol,
    /// The sender's port [default: that of a lease, else 40000].
    #[arg(long, value_name = "PORT")]
    from_port: Option<u16>,
    /// The source in the packet, if a pod of this node uses another address than its own.
    #[arg(long, value_name = "IP")]
    source: Option<std::net::Ipv4Addr>,
}

impl Options {
    fn question(self) -> Question {
        let Self { from, to, protocol, from_port, source } = self;
        Question { from, source, to, protocol, from_port }
    }
}

/// Shows what happens to such a packet; exit code 3 if it, or its answer, is dropped.
pub async fn explain(pins: &Pins, maps: &Maps, options: Options, format: Format) -> Result<Exit> {
    let report = explain::explain(pins, maps, &options.question()).await?;
    output::object(format, &report, || report.describe())?;
    Ok(if report.is_carried { Exit::Ok } else { Exit::No })
}
