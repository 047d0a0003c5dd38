//! How the kernel would send to the nodes.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use dataplane_common::Mtu;

use super::Observer;
use crate::kernel::Path;

impl Observer {
    /// Asks for paths with this source from now on. Returns whether it is another: then all paths
    /// have to be asked for again; none is forgotten until it is. The kernel refuses a source that this host has not, so it chooses then.
    pub fn send_from(&mut self, source: Option<Ipv4Addr>) -> bool {
        let source = source.filter(|source| self.host.has(*source));
        let is_other = self.source != source;
        self.source = source;
        is_other
    }

    /// Asks the kernel for the paths to these nodes.
    pub async fn ask(&mut self, nodes: impl IntoIterator<Item = Ipv4Addr>) {
        for node in nodes {
            self.asked.insert(node);
            match self.kernel.path(node, self.source).await {
                Ok(Some(path)) => {
                    let path = self.said.judge(node, path, self.paths.get(&node));
                    let known = self.paths.insert(node, path);
                    if known.is_some_and(|known| path.mtu != known.mtu) {
                        tracing::info!("node {node}: {}", mtu(&path));
                    }
                }
                Ok(None) => drop(self.paths.remove(&node)),
                // A failed lookup is not "unreachable": the last known path stays.
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }

    /// Asks for the paths to those of these nodes whose path is not known. Returns whether
    /// there was any.
    ///
    /// # Errors
    /// If the kernel cannot answer.
    pub async fn ask_unknown(&mut self, nodes: impl IntoIterator<Item = Ipv4Addr>) -> Result<bool> {
        let mut has_asked = false;
        for node in nodes {
            self.asked.insert(node);
            if !self.paths.contains_key(&node) {
                has_asked = true;
                let path = self.kernel.path(node, self.source).await?;
                let path = path.map(|path| self.said.judge(node, path, None));
                self.paths.extend(path.map(|path| (node, path)));
            }
        }
        Ok(has_asked)
    }

    /// Asks for the paths to these nodes, of which messages say that they take no more than so
    /// much. Returns whether any path is another now.
    pub async fn ask_again(&mut self, nodes: BTreeMap<Ipv4Addr, Mtu>) -> bool {
        let mut differs = false;
        for (node, said) in nodes {
            let Some(known) = self.paths.get_mut(&node) else { continue };
            match self.kernel.path(node, self.source).await {
                Ok(Some(path)) => {
                    if path.is_learnt {
                        self.said.hear(node, said);
                    }
                    let path = self.said.judge(node, path, Some(known));
                    if path != *known {
                        let mtu = mtu(&path);
                        tracing::info!("node {node}: {mtu}, after an error of the underlay");
                        *known = path;
                        differs = true;
                    }
                }
                // The kernel announces a path that is gone.
                Ok(None) => {}
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        differs
    }

    /// Forgets the paths to nodes for which `is_wanted` is false.
    pub fn keep_paths(&mut self, is_wanted: impl Fn(Ipv4Addr) -> bool) {
        self.paths.retain(|node, _| is_wanted(*node));
        self.said.keep(&is_wanted);
        self.asked.retain(|node| is_wanted(*node));
    }
}

/// What is known of a path's MTU, for the log.
fn mtu(path: &Path) -> String {
    match path.mtu {
        Some(bytes) => format!("the path MTU is {bytes} now"),
        None => "the path MTU is the interface's again".to_owned(),
    }
}
