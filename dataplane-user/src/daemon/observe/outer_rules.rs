//! Which rules of the host encapsulated packets pass by.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::Result;

use crate::{
    kernel::Kernel,
    netfilter::outer::{OuterRules, concerns, sees_outer_packets},
};

/// Looks at the chains that the kernel calls for packets to and from this host.
///
/// # Errors
/// If the kernel refuses a dump.
pub async fn look(kernel: &Kernel, nodes: &BTreeSet<Ipv4Addr>) -> Result<BTreeSet<OuterRules>> {
    let mut found = BTreeSet::new();
    for chain in kernel.nft_base_chains().await?.iter().filter(|chain| sees_outer_packets(chain)) {
        let rules = kernel.nft_rules_of(chain).await?;
        let rules = rules.iter().filter(|rule| concerns(rule, nodes)).count();
        if rules > 0 {
            let (table, chain) = (chain.table.clone(), chain.name.clone());
            found.insert(OuterRules { table, chain, rules });
        }
    }
    Ok(found)
}
