//! Pods as Calico's CNI plugin makes them.
//!
//! A veth pair: `cali…` on the node, without an address, MAC ee:ee:ee:ee:ee:ee,
//! answering every ARP request; `eth0` in the pod with a /32 and a gateway,
//! 169.254.1.1, that exists nowhere. The node knows the pod by a host route.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Result;

use crate::{
    addr::{CALI_MAC, Mac, POD_GATEWAY, mac_of, mac_text},
    lab::Shared,
    netns::Netns,
    topology::Node,
};

/// A pod of the lab.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The MAC of its `eth0`.
    pub mac: Mac,
    /// The node's end of its veth pair.
    pub cali: String,
    /// Where it lives.
    pub netns: Netns,
    /// The namespace of its node.
    pub node: Netns,
}

impl Node {
    /// Adds one pod.
    pub fn add_pod(&self, name: &str, ip: Ipv4Addr) -> Result<Pod> {
        let mut pods = self.add_pods(&[(name.to_owned(), ip)])?;
        Ok(pods.swap_remove(0))
    }

    /// Adds many pods at once, as after a node's restart: all links appear by
    /// one `ip -batch`, then all host routes.
    pub fn add_pods(&self, wanted: &[(String, Ipv4Addr)]) -> Result<Vec<Pod>> {
        let pods: Vec<Pod> =
            wanted.iter().map(|(name, ip)| self.plan_pod(&self.shared, name, *ip)).collect();
        let names: Vec<&str> = pods.iter().map(|pod| pod.netns.name()).collect();
        Netns::create_many(&names)?;

        let mtu = self.shared.pod_mtu;
        self.netns.ip_batch(&lines(&pods, |pod| {
            format!(
                "link add {cali} mtu {mtu} address {cali_mac} type veth \
                 peer name eth0 mtu {mtu} address {mac} netns {netns}\n",
                cali = pod.cali,
                cali_mac = mac_text(CALI_MAC),
                mac = mac_text(pod.mac),
                netns = pod.netns.name(),
            )
        }))?;
        self.netns.set_sysctls(&self.cali_sysctls(&pods))?;
        for pod in &pods {
            pod.configure()?;
        }
        self.netns.ip_batch(&lines(&pods, |Pod { cali, ip, .. }| {
            format!("link set {cali} up\nroute add {ip} dev {cali} scope link\n")
        }))?;
        Ok(pods)
    }

    /// Removes pods: the interface goes, and with it the host route.
    pub fn remove_pods(&self, pods: &[Pod]) -> Result<()> {
        self.netns.ip_batch(&lines(pods, |pod| format!("link del {}\n", pod.cali)))?;
        let namespaces: Vec<Netns> = pods.iter().map(|pod| pod.netns.clone()).collect();
        Netns::remove_many(&namespaces)
    }

    /// Removes one pod.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        self.remove_pods(std::slice::from_ref(pod))
    }

    fn plan_pod(&self, shared: &Arc<Shared>, name: &str, ip: Ipv4Addr) -> Pod {
        Pod {
            name: name.to_owned(),
            ip,
            mac: mac_of(ip),
            cali: cali_name(name),
            netns: shared.id.netns(name),
            node: self.netns.clone(),
        }
    }

    /// What Felix sets on a `cali*` interface (`endpoint_mgr.go`); and that the node does not ask
    /// a pod for its MAC again while a test counts packets.
    fn cali_sysctls(&self, pods: &[Pod]) -> Vec<(String, &'static str)> {
        let rp_filter = self.shared.rp_filter.value();
        let of_one = |Pod { cali, .. }: &Pod| {
            [
                (format!("ipv4/conf/{cali}/route_localnet"), "1"),
                (format!("ipv4/neigh/{cali}/proxy_delay"), "0"),
                (format!("ipv4/neigh/{cali}/delay_first_probe_time"), "3600"),
                (format!("ipv4/conf/{cali}/proxy_arp"), "1"),
                (format!("ipv4/conf/{cali}/forwarding"), "1"),
                (format!("ipv4/conf/{cali}/rp_filter"), rp_filter),
            ]
        };
        pods.iter().flat_map(of_one).collect()
    }
}

impl Pod {
    /// The pod's own side, as the CNI plugin leaves it; and that it does not ask the node for its MAC
    /// again while a test counts packets.
    fn configure(&self) -> Result<()> {
        let Self { ip, .. } = self;
        self.netns.set_sysctl("ipv4/neigh/eth0/delay_first_probe_time", "3600")?;
        self.netns.ip_batch(&format!(
            "link set lo up\n\
             addr add {ip}/32 dev eth0\n\
             link set eth0 up\n\
             route add {POD_GATEWAY} dev eth0 scope link\n\
             route add default via {POD_GATEWAY} dev eth0\n"
        ))
    }
}

/// `cali` and 11 hex digits of a hash of the name, as Calico does (with SHA-1;
/// the choice of hash shows nowhere).
fn cali_name(pod: &str) -> String {
    // FNV-1a.
    let hash = pod.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("cali{:011x}", hash & 0xfff_ffff_ffff)
}

fn lines(pods: &[Pod], line: impl Fn(&Pod) -> String) -> String {
    pods.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::cali_name;

    #[test]
    fn interface_names_look_like_calicos() {
        let name = cali_name("demo-hello-perf");
        assert_eq!(name.len(), 15, "the longest name Linux allows");
        assert!(name[4..].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(name, cali_name("demo-hello-sit"));
    }
}
