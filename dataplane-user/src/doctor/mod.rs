//! `tunless doctor`: is everything in place, and do packets pass?
//!
//! - What is wrong with the node itself comes first from the one list of problems ([`outside`]);
//!   [`codes`] puts each problem under a check.
//! - [`local`] adds what that list does not have, from what the maps and the kernel show now.
//! - [`peer`] sends packets to a peer, which the programs and the kernel of a peer with or without
//!   tunless answer.
//! - A check that found nothing is one row with what was looked at ([`facts`]).
//!
//! Nothing is changed, on this node or on a peer.

mod check;
pub mod codes;
mod facts;
mod local;
pub(crate) mod peer;
mod row;

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;

pub use self::{
    check::Check,
    row::{Row, Verdict, sort},
};
use crate::{
    bpf::Pins,
    config::ConfigFile,
    daemon::{
        outside::{self, Outside},
        preview::preview,
        report::Code,
    },
};

/// Examines the node with these pins, and the peers. `config`: its file, which counts where
/// tunless was never started.
pub async fn examine(pins: &Pins, config: &Path, peers: &[String]) -> Vec<Row> {
    let watch = local::Watch::begin();
    let mut rows = vec![facts::kernel(), facts::capabilities_here()];
    rows.extend(local::place(pins));
    match outside::look(pins).await {
        Err(error) => {
            let what = format!("the node cannot be looked at: {error:#}");
            let row = Row::new(Check::Pins, Verdict::Fail, pins.root().display().to_string(), what);
            rows.push(row.remedy("run as root, in the daemon's mount namespace"));
            rows.extend(peers.iter().map(|peer| peer::untested(peer, "the maps cannot be read")));
        }
        Ok(outside) => {
            rows.extend(outside.problems.iter().map(Row::from));
            if is_untouched(&outside) {
                rows.extend(foreseen(config, pins).await);
            }
            // Before packets of our own may be among them.
            let drops = watch.end().await;
            rows.extend(local::rows(&outside, drops).await);
            for peer in peers {
                rows.extend(peer::examine(&outside, peer).await);
            }
            fill(&mut rows, &outside);
        }
    }
    sort(&mut rows);
    rows
}

/// Whether tunless was never started here, or was detached.
fn is_untouched(outside: &Outside) -> bool {
    outside.running.is_none() && !outside.seen.has_maps && outside.decided().is_none()
}

/// What would be wrong if the daemon were started with its file.
async fn foreseen(config: &Path, pins: &Pins) -> Vec<Row> {
    let preview = async || -> Result<_> {
        let mut file = ConfigFile::read(config)?;
        pins.root().clone_into(&mut file.config.bpffs.0);
        preview(file).await
    };
    match preview().await {
        Err(error) => {
            let what = format!("the daemon would not start: {error:#}").replace('\n', "; ");
            vec![
                Row::new(Check::Configuration, Verdict::Fail, config.display().to_string(), what)
                    .remedy("repair the file and check it: `tunless config validate --here`"),
            ]
        }
        Ok(preview) => {
            let mut rows: Vec<Row> = preview
                .problems
                .iter()
                .filter(|problem| problem.code != Code::PinsLost)
                .map(Row::from)
                .collect();
            rows.extend(facts::foreseen(config, &preview));
            rows
        }
    }
}

/// Adds a row for each check that found nothing.
fn fill(rows: &mut Vec<Row>, outside: &Outside) {
    let found: BTreeSet<Check> = rows.iter().map(|row| row.check).collect();
    let silent = Check::ALL.iter().filter(|check| !found.contains(check));
    rows.extend(silent.filter_map(|check| facts::fact(*check, outside)).collect::<Vec<_>>());
}
