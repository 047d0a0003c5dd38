//! Services as kube-proxy's iptables mode makes them.
//!
//! Chains, marks and their order are kube-proxy's own, since it is their side
//! effects that tests are about: MASQUERADE picks the source address of the
//! interface a packet leaves by, the reply has to find its way back through
//! conntrack, and the daemon recognises the chains by name.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::Result;

use crate::{
    addr::POD_CIDR,
    frame::protocol,
    iptables::{has_chain, hook_in, restore},
    netns::Netns,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds`, unless a Service says another.
const AFFINITY_SECONDS: u32 = 10_800;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Its number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// Does a client stay with the pod that answered it first (`sessionAffinity` of a Service)?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Each connection is led to a pod of its own.
    None,
    /// By the client's address, for three hours: `ClientIP` with its default timeout.
    ClientIp,
}

/// A service with a cluster IP.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, as in `default/hello:http`.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The cluster IP and port.
    pub address: SocketAddrV4,
    /// The pods behind it.
    pub endpoints: Vec<SocketAddrV4>,
}

impl Service {
    /// The demo's: TCP 10.10.48.254:8080 → `pod`:8080.
    #[must_use]
    pub fn hello(pod: Ipv4Addr) -> Self {
        Self {
            name: "default/demo-hello:http".to_owned(),
            protocol: Protocol::Tcp,
            address: SocketAddrV4::new(crate::addr::SERVICE_IP, 8080),
            endpoints: vec![SocketAddrV4::new(pod, 8080)],
        }
    }

    /// The API's own, 10.10.48.1:443 → `server`.
    #[must_use]
    pub fn kubernetes(server: SocketAddrV4) -> Self {
        Self {
            name: "default/kubernetes:https".to_owned(),
            protocol: Protocol::Tcp,
            address: SocketAddrV4::new(Ipv4Addr::new(10, 10, 48, 1), 443),
            endpoints: vec![server],
        }
    }

    /// 16 characters as kube-proxy makes them from a hash of the name.
    fn hash(&self, endpoint: Option<SocketAddrV4>) -> String {
        let text = format!("{}{}{endpoint:?}", self.name, self.protocol.name());
        // FNV-1a, in base 32.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let digit = |n: u32| b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(hash >> (5 * n)) as usize % 32];
        (0..12).map(|n| char::from(digit(n))).collect()
    }
}

/// Makes the node's rules those of exactly these services.
pub fn kube_proxy(node: &Netns, services: &[Service]) -> Result<()> {
    kube_proxy_with(node, services, Affinity::None)
}

/// As [`kube_proxy`], all services with this affinity.
pub fn kube_proxy_with(node: &Netns, services: &[Service], affinity: Affinity) -> Result<()> {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in services {
        rules_of(service, affinity, &mut chains, &mut rules)?;
    }
    // Declaring a chain empties it, and the whole is one transaction.
    restore(
        node,
        &format!(
            "*nat\n\
             :KUBE-SERVICES - [0:0]\n\
             :KUBE-MARK-MASQ - [0:0]\n\
             :KUBE-POSTROUTING - [0:0]\n\
             {chains}\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -m comment \
             --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
             {rules}\
             COMMIT\n"
        ),
    )?;
    for (hook, chain) in
        [("PREROUTING", "SERVICES"), ("OUTPUT", "SERVICES"), ("POSTROUTING", "POSTROUTING")]
    {
        let rule = format!("{hook} -m comment --comment kubernetes -j KUBE-{chain}");
        hook_in(node, "nat", &rule)?;
    }
    Ok(())
}

fn rules_of(
    service: &Service,
    affinity: Affinity,
    chains: &mut String,
    rules: &mut String,
) -> Result<()> {
    let Service { name, protocol, address, endpoints } = service;
    let (protocol, svc) = (protocol.name(), format!("KUBE-SVC-{}", service.hash(None)));
    let to_service = format!(
        "-d {ip}/32 -p {protocol} -m comment --comment \"{name} cluster IP\" \
         -m {protocol} --dport {port}",
        ip = address.ip(),
        port = address.port(),
    );
    writeln!(chains, ":{svc} - [0:0]")?;
    writeln!(rules, "-A KUBE-SERVICES {to_service} -j {svc}")?;
    // Who is no pod (the host above all) must get its answer back here.
    writeln!(rules, "-A {svc} ! -s {POD_CIDR} {to_service} -j KUBE-MARK-MASQ")?;
    let sep_of = |endpoint| format!("KUBE-SEP-{}", service.hash(Some(endpoint)));
    if affinity == Affinity::ClientIp {
        for sep in endpoints.iter().copied().map(sep_of) {
            writeln!(
                rules,
                "-A {svc} -m recent --name {sep} --rcheck --seconds {AFFINITY_SECONDS} --reap -j {sep}"
            )?;
        }
    }
    for (number, endpoint) in endpoints.iter().enumerate() {
        let sep = sep_of(*endpoint);
        let remember = match affinity {
            Affinity::None => String::new(),
            Affinity::ClientIp => format!("-m recent --name {sep} --set "),
        };
        let left = endpoints.len() - number;
        let share = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode nth --every {left} --packet 0 "),
        };
        writeln!(chains, ":{sep} - [0:0]")?;
        writeln!(rules, "-A {svc} -m comment --comment \"{name}\" {share}-j {sep}")?;
        // A pod that reaches itself by its own service.
        writeln!(rules, "-A {sep} -s {}/32 -j KUBE-MARK-MASQ", endpoint.ip())?;
        writeln!(
            rules,
            "-A {sep} -p {protocol} {remember}-m {protocol} -j DNAT --to-destination {endpoint}"
        )?;
    }
    Ok(())
}

/// As [`kube_proxy`], in kube-proxy's nftables mode.
pub fn kube_proxy_nft(node: &Netns, services: &[Service]) -> Result<()> {
    kube_proxy_nft_with(node, services, Affinity::None)
}

/// As [`kube_proxy_with`], in kube-proxy's nftables mode.
pub fn kube_proxy_nft_with(node: &Netns, services: &[Service], affinity: Affinity) -> Result<()> {
    let (mut elements, mut chains) = (Vec::new(), String::new());
    for service in services {
        let Service { protocol, address, endpoints, .. } = service;
        let (protocol, hash) = (protocol.name(), service.hash(None));
        let (ip, port) = (address.ip(), address.port());
        elements.push(format!("{ip} . {protocol} . {port} : goto service-{hash}"));
        let (mut choices, mut remembered) = (Vec::new(), String::new());
        for (number, endpoint) in endpoints.iter().enumerate() {
            let id = service.hash(Some(*endpoint));
            let name = format!("endpoint-{id}");
            choices.push(format!("{number} : goto {name}"));
            let mut remember = String::new();
            if affinity == Affinity::ClientIp {
                writeln!(
                    chains,
                    "set affinity-{id} {{
                         type ipv4_addr
                         flags dynamic,timeout
                         timeout {AFFINITY_SECONDS}s
                     }}"
                )?;
                writeln!(remembered, "ip saddr @affinity-{id} goto {name}")?;
                remember = format!("update @affinity-{id} {{ ip saddr }}");
            }
            writeln!(
                chains,
                "chain {name} {{
                     ip saddr {} jump mark-for-masquerade
                     {remember}
                     meta l4proto {protocol} dnat to {endpoint}
                 }}",
                endpoint.ip()
            )?;
        }
        writeln!(
            chains,
            "chain service-{hash} {{
                 ip daddr {ip} {protocol} dport {port} ip saddr != {POD_CIDR} jump mark-for-masquerade
                 {remembered}
                 numgen random mod {} vmap {{ {} }}
             }}",
            endpoints.len(),
            choices.join(", ")
        )?;
    }
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}", elements.join(", ")),
    };
    let rules = format!(
        "add table ip kube-proxy
         delete table ip kube-proxy
         table ip kube-proxy {{
             chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}
             chain masquerading {{
                 meta mark & 0x4000 == 0 return
                 meta mark set meta mark ^ 0x4000
                 masquerade fully-random
             }}
             {chains}
             map service-ips {{
                 type ipv4_addr . inet_proto . inet_service : verdict
                 {elements}
             }}
             chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
             chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
             chain nat-output {{ type nat hook output priority -100; jump services; }}
             chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
         }}"
    );
    node.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
}

/// Masquerades everything from a pod, as kube-proxy's `masqueradeAll` would.
pub fn masquerade(node: &Netns, pod: Ipv4Addr) -> Result<()> {
    if !has_chain(node, "nat", "KUBE-MARK-MASQ")? {
        kube_proxy(node, &[])?;
    }
    hook_in(node, "nat", &format!("PREROUTING -s {pod}/32 -j KUBE-MARK-MASQ"))
}

/// Removes every iptables rule of the node, Felix's and others' too, at one stroke.
pub fn remove_rules(node: &Netns) -> Result<()> {
    // To add a table first makes it no error to delete one that is not there.
    let tables = ["raw", "mangle", "nat", "filter"];
    let batch: String =
        tables.iter().map(|it| format!("add table ip {it}\ndelete table ip {it}\n")).collect();
    node.exec_with_input("nft", &["-f", "-"], &batch).map(drop)
}
