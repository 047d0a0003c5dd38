//! What we make of the host.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use super::Reconciler;
use crate::{
    config::{ConfigFile, HostFacts},
    desired::{self, Facts, Paths, TunnelMode},
    kernel::Host,
};

impl Reconciler {
    /// Judges a file by this host as it is now; returns our node address.
    ///
    /// # Errors
    /// If the file does not fit it.
    pub async fn check_host(&self, file: &ConfigFile) -> Result<Ipv4Addr> {
        let host = self.kernel.look().await?;
        let mut paths = Paths::new();
        for node in desired::configured_nodes(&file.config) {
            if let Some(path) = self.kernel.path(node).await? {
                paths.insert(node, path);
                break;
            }
        }
        let node = desired::node_address(&file.config, &host, &paths);
        file.check_against(&HostFacts {
            interfaces: host.links.values().map(|link| link.name.clone()).collect(),
            addresses: host.addresses.iter().map(|(_, net)| net.addr()).collect(),
            node,
            pods: desired::local_pods(&file.config, &host).into_keys().collect(),
        })?;
        node.with_context(|| {
            format!(
                "{}: cannot tell this node's underlay address: no node can be reached and there \
                 is no default route; set node.address",
                file.path.display()
            )
        })
    }

    /// What we make of the host.
    ///
    /// # Errors
    /// If nothing tells our node address.
    pub fn find_facts(&mut self, mode: TunnelMode, host: &Host) -> Result<Facts> {
        let facts = Facts::find(mode, &self.file.config, host, &self.paths, self.node)
            .context("this node has no underlay address; set node.address")?;
        self.node = Some(facts.node);
        Ok(facts)
    }
}
