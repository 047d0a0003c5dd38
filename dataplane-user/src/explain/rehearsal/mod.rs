//! What the host's rules of netfilter do with a packet, tried where it harms nothing.
//!
//! The rules are written once more, in a network namespace that only this command has and that the kernel
//! removes with it. There the packet comes in by an interface of the same name, and the kernel itself runs the
//! rules and tells which of them it met (`nft monitor trace`, `net/netfilter/nf_tables_trace.c`). So what
//! [`host_rules`] copies is all there is to understand of them: no rule is interpreted here.
//!
//! Conntrack is empty there: it is the first packet of a new connection, whatever goes on on the host.

mod events;
mod host_rules;
mod stage;
mod texts;

use std::{net::SocketAddrV4, thread};

use anyhow::{Context as _, Result, anyhow};
use schemars::JsonSchema;
use serde::Serialize;

pub use self::stage::Scenery;
use self::{events::Tracer, host_rules::HostRules, stage::Stage, texts::Texts};

/// A rule that a packet met: each of its conditions held.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct RuleMet {
    /// Family and table, as in `ip filter`.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule as `iptables-save` or `nft` prints it, or `policy`: the chain's own, for what no rule decides.
    pub rule: String,
    /// What came of it: `continue`, `accept`, `drop`, `return`, `queue`, `jump CHAIN`, `goto CHAIN`.
    pub verdict: String,
}

/// What became of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It left, from here to there.
    Left(SocketAddrV4, SocketAddrV4),
    /// The last rule dropped it.
    Dropped,
    /// The last rule gave it to a program in user space.
    Queued,
    /// It did not come out, and no rule that was met dropped it.
    Lost,
}

/// What the rules did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rehearsed {
    /// In the order in which they were met.
    pub rules: Vec<RuleMet>,
    /// What became of the packet.
    pub fate: Fate,
}

/// Sends the packet through the host's rules. Blocks for as long as it takes to read and write them.
///
/// # Errors
/// If the rules cannot be read, or not be written where they are tried, or the kernel refuses a namespace.
pub fn rehearse(scenery: &Scenery, packet: &[u8]) -> Result<Rehearsed> {
    let rules = HostRules::read()?;
    if rules.is_empty() {
        let (from, to) = events::ends(packet).context("no packet of IPv4")?;
        return Ok(Rehearsed { rules: Vec::new(), fate: Fate::Left(from, to) });
    }
    // A thread has a namespace of its own if it likes, and takes it along when it ends.
    let rehearsed = thread::scope(|scope| {
        let try_it = || {
            let stage = Stage::enter(scenery)?;
            rules.write()?;
            let texts = Texts::read(&rules)?;
            let tracer = Tracer::begin()?;
            stage.send(packet)?;
            tracer.watch(&texts)
        };
        scope.spawn(try_it).join()
    });
    rehearsed.map_err(|_| anyhow!("the thread that tried them ended early"))?
}
