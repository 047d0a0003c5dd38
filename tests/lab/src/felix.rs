//! The chains of Felix, Calico's agent on each node: who may talk to whom.
//!
//! As in `felix/rules` of Calico 3.31: traffic from and to workloads is sent by
//! its `cali*` interface into a chain of that endpoint, which accepts what
//! belongs to an established connection, drops what conntrack calls invalid, asks
//! the policies, and drops the rest. A reverse path check in the raw table drops
//! what a pod forges. [`trace`] leaves out the policies.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

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
    let (mut chains, mut dispatch, mut rules) = (String::new(), String::new(), String::new());
    for Endpoint { cali, ingress, egress } in endpoints {
        for (prefix, flag, way, peer_is, allowed) in
            [("cali-tw-", "-o", "to", "-s", ingress), ("cali-fw-", "-i", "from", "-d", egress)]
        {
            let chain = format!("{prefix}{cali}");
            writeln!(chains, ":{chain} - [0:0]")?;
            writeln!(dispatch, "-A cali-{way}-wl-dispatch {flag} {cali} -g {chain}")?;
            rules.push_str(&rules_of(&chain, peer_is, allowed));
        }
    }
    let unknown = "-m comment --comment \"Unknown interface\" -j DROP";
    restore(
        node,
        &format!(
            "*filter\n\
             :cali-FORWARD - [0:0]\n\
             :cali-from-wl-dispatch - [0:0]\n\
             :cali-to-wl-dispatch - [0:0]\n\
             {chains}\
             -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000\n\
             -A cali-FORWARD -i cali+ -j cali-from-wl-dispatch\n\
             -A cali-FORWARD -o cali+ -j cali-to-wl-dispatch\n\
             {dispatch}\
             -A cali-from-wl-dispatch {unknown}\n\
             -A cali-to-wl-dispatch {unknown}\n\
             {rules}\
             COMMIT\n"
        ),
    )?;
    hook_in(node, "raw", "PREROUTING -j cali-PREROUTING")?;
    hook_in(node, "filter", "FORWARD -j cali-FORWARD")?;
    hook_in(node, "filter", "FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT")
}

fn rules_of(chain: &str, peer_is: &str, allowed: &[Allow]) -> String {
    let mut rules = format!(
        "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A {chain} -m conntrack --ctstate INVALID -j DROP\n\
         -A {chain} -j MARK --set-xmark 0x0/0x10000\n\
         -A {chain} -p ipencap -j DROP\n"
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
