//! Which limits Felix's chains put on the pods of this node.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::{
    config::Config,
    desired,
    kernel::{Flowtable, Host, Kernel},
    netfilter::{
        legacy,
        limits::{DSCP, ENDPOINT, Limits},
    },
};

/// Where Felix's chains are: the table, what chains of endpoints begin with, and one that is always
/// there and never empty.
const ENDPOINTS: [(&str, &str, &str); 2] =
    [("filter", "", "cali-FORWARD"), ("calico", "filter-", "filter-cali-FORWARD")];
/// The same for the chain that writes DSCPs.
const REMARKING: [(&str, &str); 2] = [("mangle", ""), ("calico", "mangle-")];

/// Returns the names of the interfaces of local pods.
#[must_use]
pub fn interfaces(config: &Config, host: &Host) -> BTreeSet<String> {
    let pods = desired::local_pods(config, host);
    let links = pods.values().filter_map(|pod| host.links.get(&pod.hop.ifindex));
    links.map(|link| link.name.clone()).collect()
}

/// Reads the chains of these interfaces of pods, as Felix makes them in each of its modes.
pub async fn look(kernel: &Kernel, interfaces: BTreeSet<String>) -> Limits {
    let mut limits = Limits::default();
    if let Err(error) = look_in_nftables(kernel, &interfaces, &mut limits).await {
        limits.unreadable.insert(format!("{error:#}"));
    }
    for table in ["filter", "mangle"] {
        match legacy::saved(Some(table)) {
            Ok(saved) => limits.add_saved(&saved.unwrap_or_default()),
            Err(why) => drop(limits.unreadable.insert(why)),
        }
    }
    limits.asked = interfaces;
    limits
}

async fn look_in_nftables(
    kernel: &Kernel,
    interfaces: &BTreeSet<String>,
    limits: &mut Limits,
) -> Result<()> {
    for (table, before, always) in ENDPOINTS {
        // Without Felix two questions, not four for each pod.
        if kernel.nft_rules(table, always).await?.is_empty() {
            continue;
        }
        for interface in interfaces {
            for (prefix, direction) in ENDPOINT {
                let chain = format!("{before}{prefix}{interface}");
                limits.add(interface, direction, &kernel.nft_rules(table, &chain).await?);
            }
        }
    }
    let of_pods = |table: &Flowtable| table.devices.iter().any(|name| interfaces.contains(name));
    limits.flowtable = kernel.flowtables().await?.into_iter().find(of_pods);
    for (table, before) in REMARKING {
        let chain = format!("{before}{DSCP}");
        limits.add_remarked(&chain, &kernel.nft_rules(table, &chain).await?);
    }
    Ok(())
}
