//! Rules of the host that stand against some leases.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::{
    kernel::{BaseChain, Kernel},
    netfilter::{
        self, ServiceRules, legacy,
        unanswered::{self, Watching},
    },
};

/// What rules were found to do.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What stands against leases of Services.
    pub services: ServiceRules,
    /// What counts or reports packets.
    pub watching: Watching,
}

/// Reads the rules that forwarded packets may meet; `bit`: ours of the packet mark for Services. kube-proxy's
/// own table has none that matter, and is the largest of all.
///
/// # Errors
/// If rules cannot be read, be it those of iptables-legacy.
pub async fn find(kernel: &Kernel, bit: u32) -> Result<Found> {
    const UNREAD: [&str; 2] = ["kube-proxy", netfilter::TABLE];
    let mut found = Found::default();
    let chains = kernel.nft_base_chains().await?;
    // What translates sees the first packet of a connection only, and before it has a lease.
    let tables: BTreeSet<(i32, &str)> = chains
        .iter()
        .filter(|chain| !chain.translates && !UNREAD.contains(&chain.table.as_str()))
        .map(|chain| (chain.family, chain.table.as_str()))
        .collect();
    for (family, table) in tables {
        let is_of_host = |name: &str| {
            let mut same = chains.iter().filter(|chain| {
                chain.family == family && chain.table == table && chain.name == name
            });
            same.any(is_of_host)
        };
        for (chain, rule) in kernel.nft_rules_of_table(family, table).await? {
            found.services.add(bit, table, &chain, &rule);
            if let Some(name) = unanswered::watching(&chain, &rule)
                && !is_of_host(&chain)
            {
                found.watching(&chain, table, name);
            }
        }
    }
    for table in ["raw", "mangle", "filter"] {
        let saved = legacy::saved(Some(table)).map_err(anyhow::Error::msg)?.unwrap_or_default();
        found.services.add_saved(bit, table, &saved);
        for (chain, name) in unanswered::saved_watching(&saved) {
            found.watching(chain, table, name);
        }
    }
    found.services.timing.extend(kernel.nft_timeouts().await?);
    Ok(found)
}

/// Returns whether the kernel calls a chain for the host's own packets alone. Chains to which such a one
/// jumps may be others', too.
fn is_of_host(chain: &BaseChain) -> bool {
    /// `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`.
    const HOST: [u32; 2] = [1, 3];
    HOST.contains(&chain.hook)
}

impl Found {
    fn watching(&mut self, chain: &str, table: &str, name: &str) {
        let place = (chain.to_owned(), table.to_owned());
        self.watching.entry(place).or_default().insert(name.to_owned());
    }
}
