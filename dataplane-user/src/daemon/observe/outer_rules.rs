//! Which rules of the host encapsulated packets pass by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::Result;

use crate::{
    kernel::{BaseChain, Kernel},
    netfilter::{
        legacy,
        outer::{Elements, OuterRules, Packets, Rule, Ruleset, saved, sees},
    },
};

/// So many chains are read for one hook.
const MOST_CHAINS: usize = 256;

/// Looks at the chains through which packets between this host and its nodes would come. `links`: the
/// names of those by which they do. What cannot be read has no rules: a kernel without nftables refuses.
pub async fn look(
    kernel: &Kernel,
    nodes: &BTreeSet<Ipv4Addr>,
    links: &BTreeSet<String>,
) -> BTreeSet<OuterRules> {
    let mut found = look_in_legacy(nodes, links);
    match look_in_nftables(kernel, nodes, links).await {
        Ok(rules) => found.extend(rules),
        Err(error) => tracing::debug!("{error:#}"),
    }
    found
}

async fn look_in_nftables(
    kernel: &Kernel,
    nodes: &BTreeSet<Ipv4Addr>,
    links: &BTreeSet<String>,
) -> Result<BTreeSet<OuterRules>> {
    let mut found: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for base in kernel.nft_base_chains().await? {
        let Some(direction) = sees(&base) else { continue };
        let packets = Packets { direction, nodes: nodes.clone(), links: links.clone() };
        let ruleset = read(kernel, &base, &packets).await?;
        for (chain, place) in ruleset.concerning(&base.name, base.drops, &packets) {
            let places = found.entry((base.family, base.table.clone(), chain)).or_default();
            places.insert(place);
        }
    }
    let rules = |((_, table, chain), places): ((_, _, _), BTreeSet<usize>)| OuterRules {
        table,
        chain,
        rules: places.len(),
    };
    Ok(found.into_iter().map(rules).collect())
}

/// The same of iptables-legacy, whose table `nat` is not read either.
fn look_in_legacy(nodes: &BTreeSet<Ipv4Addr>, links: &BTreeSet<String>) -> BTreeSet<OuterRules> {
    let packets = |direction| Packets { direction, nodes: nodes.clone(), links: links.clone() };
    let mut found = BTreeSet::new();
    for table in ["raw", "mangle", "filter"] {
        match legacy::saved(Some(table)) {
            Ok(saved) => {
                found.extend(saved::concerning(table, &saved.unwrap_or_default(), packets));
            }
            Err(why) => tracing::debug!("{why}"),
        }
    }
    found
}

/// Reads a chain, and all those to which its rules lead such packets. What translates addresses is
/// not followed: those are the chains of Services, a hundred thousand rules in a large cluster.
async fn read(kernel: &Kernel, base: &BaseChain, packets: &Packets) -> Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    let mut asked = BTreeSet::new();
    let mut unread = BTreeSet::from([base.name.clone()]);
    while let Some(name) = unread.pop_first() {
        let rules = match kernel.nft_rules_beside(base, &name).await {
            Err(error) if name == base.name => return Err(error),
            // It may be gone by now.
            rules => rules.unwrap_or_default(),
        };
        let rules: Vec<Rule> =
            rules.iter().map(|rule| Rule::read(rule, packets.direction)).collect();
        for set in rules.iter().filter(|rule| rule.may_match(packets)).flat_map(Rule::sets) {
            if asked.insert(set.to_owned())
                && let Ok(dumped) = kernel.nft_elements_beside(base, set).await
            {
                ruleset.sets.insert(set.to_owned(), Elements::read(&dumped));
            }
        }
        ruleset.chains.insert(name.clone(), rules);
        if !base.translates && ruleset.chains.len() < MOST_CHAINS {
            let targets = ruleset.targets(&name, packets).into_iter();
            unread.extend(targets.filter(|chain| !ruleset.chains.contains_key(chain)));
        }
    }
    Ok(ruleset)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    /// The kernel lists rules only for a process that may administer the network; one without nftables
    /// refuses all of them.
    #[test]
    fn a_kernel_that_refuses_has_no_rules() {
        let refused = thread::spawn(|| {
            let mut ours = capabilities(None).unwrap();
            ours.effective.remove(CapabilitySet::NET_ADMIN);
            ours.permitted.remove(CapabilitySet::NET_ADMIN);
            ours.inheritable.remove(CapabilitySet::NET_ADMIN);
            set_capabilities(None, ours).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let kernel = Kernel::connect().unwrap();
                let (nodes, links) = (BTreeSet::new(), BTreeSet::new());
                let error = look_in_nftables(&kernel, &nodes, &links).await.unwrap_err();
                (format!("{error:#}"), look(&kernel, &nodes, &links).await)
            })
        });
        let (error, rules) = refused.join().unwrap();
        assert!(error.starts_with("reading chains of nft: "), "{error}");
        assert_eq!(rules, BTreeSet::new());
    }
}
