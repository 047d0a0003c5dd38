//! The ways to the nodes, as the kernel tells them.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::Reconciler;
use crate::kernel::Path;

impl Reconciler {
    /// All nodes that are to be reached.
    pub fn nodes(&self) -> BTreeSet<Ipv4Addr> {
        let extras = self.file.config.routes.nodes.iter().map(|extras| extras.node);
        self.sources.nodes().chain(extras).collect()
    }

    /// Asks the kernel for the ways to these nodes; forgets those to no node.
    pub async fn ask_for_ways(&mut self, nodes: BTreeSet<Ipv4Addr>) {
        for node in nodes {
            match self.kernel.path(node).await {
                Ok(Some(path)) => {
                    let known = self.paths.insert(node, path);
                    if known.is_some_and(|known| path.mtu != known.mtu) {
                        tracing::info!("node {node}: {}", mtu(&path));
                    }
                }
                Ok(None) => drop(self.paths.remove(&node)),
                // No answer is no "no": what we knew stays.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        let wanted = self.nodes();
        self.paths.retain(|node, _| wanted.contains(node));
    }

    /// Asks for the ways to these nodes, whose path MTU may have changed; whether
    /// any is another now.
    pub async fn ask_again(&mut self, nodes: BTreeSet<Ipv4Addr>) -> bool {
        let mut differs = false;
        for node in nodes {
            let Some(known) = self.paths.get_mut(&node) else { continue };
            match self.kernel.path(node).await {
                Ok(Some(path)) if path != *known => {
                    tracing::info!("node {node}: {}, after an error of the underlay", mtu(&path));
                    *known = path;
                    differs = true;
                }
                // That there is no way any more is announced.
                Ok(_) => {}
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        differs
    }
}

/// What is known of a path's MTU, for the log.
fn mtu(path: &Path) -> String {
    match path.mtu {
        Some(bytes) => format!("the path MTU is {bytes} now"),
        None => "the path MTU is the interface's again".to_owned(),
    }
}
