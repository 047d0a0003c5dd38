//! What happens to a packet, and why: the attached programs, run over the live maps.
//!
//! [`copies`] runs them without side effects, [`question`] decides which packet they get, [`walk`] goes
//! from hook to hook as the packet would, with what the kernel does between them by [`stack`], and [`report`]
//! says what came of it.

pub mod copies;
mod facts;
pub mod packet;
pub mod question;
mod rehearsal;
pub mod report;
mod stack;
mod walk;

use anyhow::{Result, ensure};

use self::{copies::Copies, question::Case, walk::Walk};
pub use self::{
    question::{From, Protocol, Question},
    report::Report,
};
use crate::{
    bpf::{Maps, Pins, filters, links},
    clock,
    kernel::Kernel,
};

/// Answers a question.
///
/// # Errors
/// If an address is not known, no program is attached, the attached ones are of another version, or the
/// kernel refuses.
pub async fn explain(pins: &Pins, maps: &Maps, question: &Question) -> Result<Report> {
    let case = question.case(maps, clock::monotonic())?;
    let kernel = Kernel::connect()?;
    let mut attached = links::list(pins)?;
    filters::check(&kernel, &mut attached).await?;
    attached.retain(|(_, link)| link.is_live);
    ensure!(
        !attached.is_empty(),
        "no program of tunless is attached on this node: start the daemon (`systemctl start tunless`)"
    );
    let mut copies = Copies::load(pins, &attached)?;
    copies.copy_links(maps)?;
    for flow in [case.out, case.into].into_iter().flatten() {
        if let Ok(lease) = maps.leases.get(&flow, 0) {
            copies.copy_lease(flow, lease);
        }
    }
    let Case { pod, out, mut into, mut node, is_out_first, source, to } = case;
    let mut walk = Walk { maps, kernel: &kernel, copies, attached: &attached, pod };
    let mut ways = Vec::new();
    for is_out in [is_out_first, !is_out_first] {
        let is_answer = is_out != is_out_first;
        ways.extend(match (is_out, out, into, node) {
            (true, Some(flow), ..) => {
                let (way, left) = walk.outward(&flow, is_answer).await?;
                if into.is_none() && left.destination != flow.destination {
                    // A Service's, to which no lease leads yet.
                    node = question::node_of(maps, left.destination.into())?;
                    into = node.map(|_| left.reverse());
                }
                Some(way)
            }
            (false, _, Some(flow), Some(node)) => Some(walk.inward(&flow, node, is_answer).await?),
            _ => None,
        });
    }
    let mut ways = ways.into_iter();
    let there = ways.next();
    ensure!(there.is_some(), "this node has no part in packets from {source} to {to}");
    let there = there.unwrap_or_else(|| report::Way::of(String::new(), Vec::new()));
    Ok(Report::new(source, to, there, ways.next()))
}
