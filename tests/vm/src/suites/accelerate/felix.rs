//! What Felix has on a node, and what it does there now and then.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tunless_lab::{Netns, Node, felix};

use crate::tunl0::{self, Owner};

const SOON: Duration = Duration::from_secs(60);

/// Felix's rules that have to do with IP-in-IP (`felix/rules/static.go`), and the
/// chains for policies.
pub fn rules(node: &Node, peer: &Node) -> Result<()> {
    felix::trace(&node.netns)?;
    let restore = |text: &str| {
        node.netns.exec_with_input("iptables-restore", &["--wait", "--noflush"], text).map(drop)
    };
    restore(&format!(
        "*raw\n\
         :cali-PREROUTING - [0:0]\n\
         -A PREROUTING -j cali-PREROUTING\n\
         -A cali-PREROUTING -i cali+ -m rpfilter --invert --validmark -j DROP\n\
         COMMIT\n\
         *filter\n\
         -A cali-INPUT -p 4 -s {peer} -m addrtype --dst-type LOCAL -j ACCEPT\n\
         -A cali-INPUT -p 4 -j DROP\n\
         COMMIT\n\
         *nat\n\
         :cali-POSTROUTING - [0:0]\n\
         -A POSTROUTING -j cali-POSTROUTING\n\
         -A cali-POSTROUTING -o tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out \
         -m addrtype --src-type LOCAL -j MASQUERADE --random-fully\n\
         COMMIT\n",
        peer = peer.ip
    ))
}

/// One turn of the reconciler that runs every ten seconds (`ipip_mgr.go`): MTU,
/// address, up, routes.
pub fn reconcile(node: &Node, peer: &Node) -> Result<()> {
    tunl0::raise_for(Owner::Felix, node, peer)
}

/// The clean-up at Felix's start (`felix/bpf/tc/cleanup.go`), at its worst: other
/// programs of Felix's sat on the same `clsact` qdiscs, so it removes these.
pub fn clean_up(node: &Node, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        // Not there where programs are attached by links.
        node.netns.try_exec("tc", &["qdisc", "del", "dev", interface, "clsact"], SOON)?;
    }
    remove_felix_pins(Path::new("/sys/fs/bpf"), false)
}

/// Puts a filter of somebody else's on an interface's `clsact` qdisc, one that
/// leaves IPv4 alone: without an action a match ends the hook.
pub fn old_filter(netns: &Netns, interface: &str) -> Result<()> {
    // It may be there.
    netns.try_exec("tc", &["qdisc", "add", "dev", interface, "clsact"], SOON)?;
    let filter =
        format!("filter add dev {interface} ingress pref 1 protocol ipv6 matchall classid 1:1");
    netns.exec("tc", &filter.split(' ').collect::<Vec<_>>()).map(drop)
}

/// Everything below `tcx` and `netkit`, and whatever has one of Felix's names.
fn remove_felix_pins(directory: &Path, all: bool) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_felix =
            ["cali_", "calico_", "xdp_cali_"].iter().any(|start| name.starts_with(start));
        if entry.file_type()?.is_dir() {
            remove_felix_pins(&entry.path(), all || name == "tcx" || name == "netkit")?;
        } else if all || is_felix {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
