//! Between observing and deciding: claims name nodes, the paths to nodes show what the host is
//! like, and by that claims are weighed.

use anyhow::Result;

use super::{decide::Decider, observe::Observer};
use crate::{clock, desired::Facts};

/// Lets the claims be weighed, and asks the kernel for the paths to nodes that are new, from our
/// address once it is known, until no more are. Returns what the host comes to; `None` while nothing names our node address.
///
/// # Errors
/// If the kernel cannot answer.
pub async fn weigh(observer: &mut Observer, decider: &mut Decider) -> Result<Option<Facts>> {
    let mut has_switched = false;
    loop {
        let known = observer.paths().len();
        let facts = decider.weigh(observer.host(), observer.paths(), clock::seconds());
        let nodes = decider.nodes(observer.host(), observer.paths());
        // Once: rules may let nothing out from the very source that the kernel chooses, and then
        // the paths that showed it are gone.
        let source = decider.source(observer.host(), observer.paths());
        let is_other = !has_switched && observer.send_from(source);
        has_switched |= is_other;
        if is_other {
            // The known ones show which address is ours, whether they have routes or not.
            let known: Vec<_> = observer.paths().keys().copied().collect();
            observer.ask(known).await;
        }
        observer.ask_unknown(nodes.iter().copied()).await?;
        if !is_other && observer.paths().len() == known {
            observer.keep_paths(|node| nodes.contains(&node));
            return Ok(facts);
        }
    }
}
