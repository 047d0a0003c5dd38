//! Rules by `iptables-restore`, which is one transaction and leaves alone what
//! it does not name.

use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;

const SOON: Duration = Duration::from_secs(60);

/// Adds chains and rules in the syntax of `iptables-save`. Declaring a chain
/// empties it.
pub(crate) fn restore(node: &Netns, rules: &str) -> Result<()> {
    node.exec_with_input("iptables-restore", &["--wait", "--noflush"], rules).map(drop)
}

/// Appends a rule to a built-in chain unless it is there.
pub(crate) fn hook_in(node: &Netns, table: &str, rule: &str) -> Result<()> {
    let words: Vec<&str> = rule.split(' ').collect();
    let with = |verb| [&["--wait", "-t", table, verb], words.as_slice()].concat();
    if node.try_exec("iptables", &with("-C"), SOON)?.success() {
        return Ok(());
    }
    node.exec("iptables", &with("-A")).map(drop)
}

/// Whether a table has a chain.
pub(crate) fn has_chain(node: &Netns, table: &str, chain: &str) -> Result<bool> {
    let args = ["--wait", "-t", table, "-n", "-L", chain];
    Ok(node.try_exec("iptables", &args, SOON)?.success())
}
