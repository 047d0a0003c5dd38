//! The chains of Felix, Calico's agent on each node: who may talk to whom.
//!
//! As in `felix/rules` of Calico 3.31: traffic from and to workloads is sent by
//! its `cali*` interface into a chain of that endpoint, which accepts what
//! belongs to an established connection, drops what conntrack calls invalid, asks
//! the policies, and drops the rest. A reverse path check in the raw table drops
//! what a pod forges. [`trace`] leaves out the policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use anyhow::Result;

use crate::{
    iptables::{hook_in, restore},
    netns::Netns,
    pod::Pod,
    service::Protocol,
};

/// What a policy lets pass; whatever it leaves open may be anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allow {
    /// TCP or UDP.
    pub protocol: Option<Protocol>,
    /// The destination port; needs a protocol.
    pub port: Option<u16>,
    /// The other end.
    pub peer: Option<Ipv4Addr>,
}

impl Allow {
    /// Everything.
    pub const ALL: Self = Self { protocol: None, port: None, peer: None };

    /// TCP and UDP to a port.
    #[must_use]
    pub fn port(port: u16) -> Vec<Self> {
        let of = |protocol| Self { protocol: Some(protocol), port: Some(port), peer: None };
        vec![of(Protocol::Tcp), of(Protocol::Udp)]
    }

    fn words(self, peer_is: &str) -> String {
        let mut words = String::new();
        if let Some(protocol) = self.protocol {
            words.push_str(&format!("-p {} ", protocol.name()));
            if let Some(port) = self.port {
                words.push_str(&format!("-m multiport --dports {port} "));
            }
        }
        if let Some(peer) = self.peer {
            words.push_str(&format!("{peer_is} {peer}/32 "));
        }
        words
    }
}

/// A pod and its policies.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its interface.
    pub cali: String,
    /// What it may be sent.
    pub ingress: Vec<Allow>,
    /// What it may send.
    pub egress: Vec<Allow>,
}

impl Endpoint {
    /// A pod that may do anything.
    #[must_use]
    pub fn open(pod: &Pod) -> Self {
        Self { cali: pod.cali.clone(), ingress: vec![Allow::ALL], egress: vec![Allow::ALL] }
    }

    /// A pod that may be sent only this.
    #[must_use]
    pub fn allowing(pod: &Pod, ingress: Vec<Allow>) -> Self {
        Self { ingress, ..Self::open(pod) }
    }

    /// A pod that may send only this.
    #[must_use]
    pub fn sending(pod: &Pod, egress: Vec<Allow>) -> Self {
        Self { egress, ..Self::open(pod) }
    }
}

/// Makes the node's rules those of exactly these endpoints, at one stroke per table.
/// What is of no known endpoint is dropped.
pub fn enforce(node: &Netns, endpoints: &[Endpoint]) -> Result<()> {
    restore(
        node,
        "*raw\n\
         :cali-PREROUTING - [0:0]\n\
         -A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000\n\
         -A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000\n\
         -A cali-PREROUTING -m mark --mark 0x40000/0x40000 \
         -m rpfilter --validmark --invert -j DROP\n\
         COMMIT\n",
    )?;
    let (mut chains, mut rules) = (String::new(), String::new());
    for Endpoint { cali, ingress, egress } in endpoints {
        for (prefix, peer_is, allowed) in [("cali-tw-", "-s", ingress), ("cali-fw-", "-d", egress)]
        {
            let chain = format!("{prefix}{cali}");
            writeln!(chains, ":{chain} - [0:0]")?;
            rules.push_str(&rules_of(&chain, peer_is, allowed));
        }
    }
    let names: BTreeSet<&str> = endpoints.iter().map(|endpoint| &*endpoint.cali).collect();
    for (way, flag, prefix) in [("to", "-o", "cali-tw-"), ("from", "-i", "cali-fw-")] {
        let (more, dispatch) = dispatch(&names, &format!("cali-{way}-wl-dispatch"), flag, prefix);
        chains.push_str(&more);
        rules.push_str(&dispatch);
    }
    restore(
        node,
        &format!(
            "*filter\n\
             :cali-FORWARD - [0:0]\n\
             {chains}\
             -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000\n\
             -A cali-FORWARD -i cali+ -j cali-from-wl-dispatch\n\
             -A cali-FORWARD -o cali+ -j cali-to-wl-dispatch\n\
             {rules}\
             COMMIT\n"
        ),
    )?;
    hook_in(node, "raw", "PREROUTING -j cali-PREROUTING")?;
    hook_in(node, "filter", "FORWARD -j cali-FORWARD")?;
    hook_in(node, "filter", "FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT")
}

/// From an interface to its chain, in two steps: by the first character that tells
/// names apart, then by the whole name (`dispatch.go`). Which chains that makes, and
/// the rules.
fn dispatch(names: &BTreeSet<&str>, chain: &str, flag: &str, prefix: &str) -> (String, String) {
    let unknown = "-m comment --comment \"Unknown interface\" -j DROP";
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        groups.entry(name.get(.."cali".len() + 1).unwrap_or(name)).or_default().push(name);
    }
    let (mut chains, mut rules) = (format!(":{chain} - [0:0]\n"), String::new());
    for (group, names) in &groups {
        let leaf = match names[..] {
            [_] => chain.to_owned(),
            _ => {
                let leaf = format!("{chain}-{}", &group["cali".len()..]);
                chains.push_str(&format!(":{leaf} - [0:0]\n"));
                rules.push_str(&format!("-A {chain} {flag} {group}+ -g {leaf}\n"));
                leaf
            }
        };
        for name in names {
            rules.push_str(&format!("-A {leaf} {flag} {name} -g {prefix}{name}\n"));
        }
        if leaf != chain {
            rules.push_str(&format!("-A {leaf} {unknown}\n"));
        }
    }
    rules.push_str(&format!("-A {chain} {unknown}\n"));
    (chains, rules)
}

fn rules_of(chain: &str, peer_is: &str, allowed: &[Allow]) -> String {
    let mut rules = format!(
        "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A {chain} -m conntrack --ctstate INVALID -j DROP\n\
         -A {chain} -j MARK --set-xmark 0x0/0x10000\n\
         -A {chain} -p 4 -j DROP\n"
    );
    for allow in allowed {
        rules.push_str(&format!(
            "-A {chain} {words}-j MARK --set-xmark 0x10000/0x10000\n\
             -A {chain} -m mark --mark 0x10000/0x10000 -j RETURN\n",
            words = allow.words(peer_is)
        ));
    }
    rules.push_str(&format!(
        "-A {chain} -m comment --comment \"Drop if no policies passed packet\" -j DROP\n"
    ));
    rules
}

/// Denies a pod all ingress from `peer` before anybody asks whether it is
/// established: untracked or pre-DNAT policies are like that.
pub fn deny_first(pod: &Pod, peer: Ipv4Addr) -> Result<()> {
    let (chain, peer) = (format!("cali-tw-{}", pod.cali), format!("{peer}/32"));
    pod.node.exec("iptables", &["--wait", "-I", &chain, "1", "-s", &peer, "-j", "DROP"]).map(drop)
}

/// Chains named and hooked like Felix's, which accept what Felix would accept
/// without any policy. Enough for the daemon to notice that policies exist.
pub fn trace(node: &Netns) -> Result<()> {
    restore(
        node,
        "*filter\n\
         :cali-FORWARD - [0:0]\n\
         :cali-INPUT - [0:0]\n\
         :cali-OUTPUT - [0:0]\n\
         :cali-from-wl-dispatch - [0:0]\n\
         :cali-to-wl-dispatch - [0:0]\n\
         -A cali-FORWARD -i cali+ -j cali-from-wl-dispatch\n\
         -A cali-FORWARD -o cali+ -j cali-to-wl-dispatch\n\
         -A cali-from-wl-dispatch -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
         -A cali-from-wl-dispatch -m conntrack --ctstate INVALID -j DROP\n\
         -A cali-to-wl-dispatch -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n\
         -A cali-to-wl-dispatch -m conntrack --ctstate INVALID -j DROP\n\
         COMMIT\n",
    )?;
    for hook in ["FORWARD", "INPUT", "OUTPUT"] {
        hook_in(node, "filter", &format!("{hook} -j cali-{hook}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_begin_alike_share_a_step() {
        let names = BTreeSet::from(["cali1a", "cali1b", "cali2c"]);
        let (chains, rules) = dispatch(&names, "cali-to-wl-dispatch", "-o", "cali-tw-");
        assert_eq!(chains, ":cali-to-wl-dispatch - [0:0]\n:cali-to-wl-dispatch-1 - [0:0]\n");
        assert_eq!(
            rules,
            "-A cali-to-wl-dispatch -o cali1+ -g cali-to-wl-dispatch-1\n\
             -A cali-to-wl-dispatch-1 -o cali1a -g cali-tw-cali1a\n\
             -A cali-to-wl-dispatch-1 -o cali1b -g cali-tw-cali1b\n\
             -A cali-to-wl-dispatch-1 -m comment --comment \"Unknown interface\" -j DROP\n\
             -A cali-to-wl-dispatch -o cali2c -g cali-tw-cali2c\n\
             -A cali-to-wl-dispatch -m comment --comment \"Unknown interface\" -j DROP\n"
        );
    }
}
