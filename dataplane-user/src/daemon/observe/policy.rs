//! Is netfilter the judge of pod traffic on this host?
//!
//! `trusted` skips it, so `NetworkPolicy` and Services would silently stop
//! working. Where Felix's chains or kube-proxy's rules are found, or where we
//! cannot look, it takes the operator's word to go on.

use nftables::{
    helper::get_current_ruleset_with_args,
    schema::{NfListObject, NfObject},
};

use crate::netfilter::legacy;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Neither policy nor services.
    Nothing,
    /// What, by name.
    Rules(String),
    /// We could not look: why.
    Unknown(String),
}

/// Looks through the chains of this network namespace.
#[must_use]
pub fn look() -> Finding {
    match nft_chains() {
        Err(error) => return Finding::Unknown(error),
        Ok(chains) => {
            if let Some(found) = chains.iter().find_map(|(table, chain)| telling(table, chain)) {
                return Finding::Rules(found);
            }
        }
    }
    match legacy_chains() {
        Err(error) => Finding::Unknown(error),
        Ok(chains) => chains
            .iter()
            .find_map(|chain| telling("iptables-legacy", chain))
            .map_or(Finding::Nothing, Finding::Rules),
    }
}

/// (table, chain) of everything in nftables, iptables-nft's included.
fn nft_chains() -> Result<Vec<(String, String)>, String> {
    // Chains only: a large cluster has a hundred thousand rules.
    let ruleset =
        get_current_ruleset_with_args(None::<&str>, ["list", "chains"]).map_err(|error| {
            format!("`nft -j list chains` failed ({error}); is nftables installed?")
        })?;
    let chains = ruleset.objects.iter().filter_map(|object| match object {
        NfObject::ListObject(NfListObject::Chain(chain)) => {
            Some((chain.table.to_string(), chain.name.to_string()))
        }
        _ => None,
    });
    Ok(chains.collect())
}

/// Chains of the old kernel interface, if it is in use.
fn legacy_chains() -> Result<Vec<String>, String> {
    let text = legacy::saved(None)?.unwrap_or_default();
    let chain = |line: &str| line.strip_prefix(':')?.split(' ').next().map(str::to_owned);
    Ok(text.lines().filter_map(chain).collect())
}

/// What a chain of this name tells, if anything.
fn telling(table: &str, chain: &str) -> Option<String> {
    /// kube-proxy's, not kubelet's (`KUBE-FIREWALL` and canaries are everywhere).
    const KUBE_PROXY: [&str; 6] = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-SVC-",
        "KUBE-SEP-",
        "KUBE-PROXY-FIREWALL",
    ];
    let whose = if chain.starts_with("cali-") || table == "calico" {
        "Felix's"
    } else if table == "kube-proxy" || KUBE_PROXY.iter().any(|start| chain.starts_with(start)) {
        "kube-proxy's"
    } else {
        return None;
    };
    Some(format!("{whose} chain {chain} (table {table})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_tell_whose_they_are() {
        assert!(telling("filter", "cali-FORWARD").unwrap().starts_with("Felix's"));
        assert!(telling("calico", "filter-FORWARD").unwrap().starts_with("Felix's"));
        assert!(telling("nat", "KUBE-SERVICES").unwrap().starts_with("kube-proxy's"));
        assert!(telling("nat", "KUBE-SVC-ABC").is_some());
        assert!(telling("kube-proxy", "services").is_some());
        for harmless in ["FORWARD", "DOCKER", "KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "calibrate"] {
            assert_eq!(telling("filter", harmless), None, "{harmless}");
        }
    }
}
