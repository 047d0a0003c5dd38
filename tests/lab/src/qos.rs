//! Felix's rules for a pod with a packet rate (`felix/rules/endpoints.go`, `felix/iptables/actions.go`,
//! `felix/nftables/actions.go`).

use std::fmt::Write as _;

use anyhow::Result;

use crate::{netns::Netns, pod::Pod};

/// Which packets of a pod are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `qos.projectcalico.org/ingressPacketRate`.
    ToPod,
    /// `qos.projectcalico.org/egressPacketRate`.
    FromPod,
}

impl Way {
    fn chain(self, pod: &Pod) -> String {
        let prefix = match self {
            Self::ToPod => "cali-tw-",
            Self::FromPod => "cali-fw-",
        };
        format!("{prefix}{}", pod.cali)
    }
}

/// Lets `rate` packets a second pass, in front of all other rules of the pod's chain, which
/// [`crate::felix::enforce`] made; it also takes the limit away again.
pub fn limit_packets(pod: &Pod, way: Way, rate: u64, burst: u64) -> Result<()> {
    const MARK: &str = "0x20000/0x20000";
    let chain = way.chain(pod);
    let rules = [
        "-j MARK --set-xmark 0x0/0x20000".to_owned(),
        format!("-m limit --limit {rate}/sec --limit-burst {burst} -j MARK --set-mark {MARK}"),
        format!("-m mark ! --mark {MARK} -j DROP"),
        "-j MARK --set-xmark 0x0/0x20000".to_owned(),
    ];
    let mut input = "*filter\n".to_owned();
    for (number, rule) in rules.iter().enumerate() {
        writeln!(input, "-I {chain} {} {rule}", number + 1)?;
    }
    input.push_str("COMMIT\n");
    pod.node.exec_with_input("iptables-restore", &["--wait", "--noflush"], &input).map(drop)
}

/// The same as Felix does it in nftables mode, with its table `calico`.
pub fn limit_packets_by_nft(pod: &Pod, way: Way, rate: u64, burst: u64) -> Result<()> {
    let (chain, flag) = match way {
        Way::ToPod => (way.chain(pod), "oifname"),
        Way::FromPod => (way.chain(pod), "iifname"),
    };
    let table = format!(
        "table ip calico {{\n\
         chain filter-{chain} {{ limit rate over {rate}/second burst {burst} packets drop; }}\n\
         chain filter-cali-FORWARD {{ {flag} \"{cali}\" jump filter-{chain}; }}\n\
         chain filter-FORWARD {{ type filter hook forward priority filter; \
         jump filter-cali-FORWARD; }}\n\
         }}\n",
        cali = pod.cali
    );
    pod.node.exec_with_input("nft", &["-f", "-"], &table).map(drop)
}

/// Takes Felix's nftables table away.
pub fn unlimit_by_nft(node: &Netns) -> Result<()> {
    node.exec("nft", &["delete table ip calico"]).map(drop)
}
