//! What `tunless doctor` checks.

use schemars::JsonSchema;
use serde::Serialize;

/// Defines [`Check`]: each check's name in JSON, with what it looks at.
macro_rules! checks {
    ($(#[doc = $doc:literal] $name:ident = $text:literal,)*) => {
        /// A check. The names are an interface: scripts match them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, JsonSchema, Serialize)]
        pub enum Check { $(#[doc = $doc] #[serde(rename = $text)] $name,)* }

        impl Check {
            /// All of them, in the order in which they are printed.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it looks at, in a sentence, for the documents.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim(),)* }
            }
        }
    };
}

checks! {
    /// The kernel's release, and whether it runs the program types that tunless needs.
    Kernel = "kernel",
    /// The capabilities of the command itself.
    Capabilities = "capabilities",
    /// The file system of the pins, and whether the maps in it can be read.
    Pins = "pins",
    /// Whether the kernel still runs every program that the daemon attached.
    Programs = "programs",
    /// Programs and filters on the hooks where ours are: of others, or of a second tunless.
    Hooks = "hooks",
    /// Whether the daemon runs, and when it last compared everything.
    Daemon = "daemon",
    /// Whether the file on disk is the active one, and fits the host.
    Configuration = "configuration",
    /// This node's underlay address, beside the datastore's.
    Node = "node",
    /// The tunnel device and its address.
    Tunnel = "tunnel",
    /// The sources of routes: their state and what they report.
    Sources = "sources",
    /// Routes to pods: nodes that cannot be reached, kernel routes of others that take packets past tunless.
    Routes = "routes",
    /// `net.ipv4.conf.<interface>.forwarding` of the tunnel device, of pods and of the underlay.
    Forwarding = "forwarding",
    /// Strict `rp_filter` where the kernel's route back does not lead through the tunnel device, and the packets that it dropped.
    RpFilter = "rp-filter",
    /// The MTU of NIC, tunnel device and pods, and of paths that are narrower.
    Mtu = "mtu",
    /// The nft table that marks flows, and rules of others that encapsulated packets pass by.
    Netfilter = "netfilter",
    /// Conntrack's sysctls that leased flows need.
    Sysctls = "sysctls",
    /// The fast path: whether flows can be leased.
    Leases = "leases",
    /// XDP decapsulation on each link.
    Xdp = "xdp",
    /// Over which CPUs decapsulation is spread.
    Cpus = "cpus",
    /// How full the maps are.
    Maps = "maps",
    /// IPsec policies about encapsulated packets.
    Ipsec = "ipsec",
    /// Calico's encryption between nodes by WireGuard: its device, and the rule that leads packets to it.
    Wireguard = "wireguard",
    /// Counters of packets with spoofed sources, from pods and from nodes.
    Spoofs = "spoofs",
    /// Packets for pods that the kernel got, and that reached no pod.
    Delivery = "delivery",
    /// Nodes that packets were sent to and that were never heard, or not for five minutes.
    Peers = "peers",
    /// With `--peer`: an unencapsulated ping.
    PeerPlain = "peer-plain",
    /// With `--peer`: IP protocol 4, to the peer and back.
    PeerTunnel = "peer-tunnel",
    /// With `--peer` and the address of a pod: a ping of that pod, by the programs and routes of this node.
    PeerPod = "peer-pod",
    /// With `--peer`: the largest encapsulated packet that passes.
    PeerMtu = "peer-mtu",
    /// With `--peer` and the address of a pod: UDP that the NIC cuts into segments, with the checksums verified by the peer's kernel.
    PeerOffloads = "peer-offloads",
    /// With `--peer`: the round trip in the tunnel, beside the unencapsulated one.
    PeerRoundTrip = "peer-round-trip",
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write as _};

    use super::*;
    use crate::{daemon::report::Code, doctor::codes};

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = Check::ALL.iter().map(|check| check.as_str()).collect();
        assert_eq!(names.len(), Check::ALL.len());
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
        }
    }

    /// The table of `docs/doctor.md` is made of this; `BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_is_fresh() {
        let mut table = include_str!("doctor.md").to_owned();
        for check in Check::ALL {
            let of_check = |wanted| {
                let codes =
                    Code::ALL.iter().filter(|code| codes::place(**code) == (*check, wanted));
                let names: Vec<String> = codes.map(|code| format!("`{}`", code.as_str())).collect();
                names.join(", ")
            };
            use crate::doctor::Verdict::{Fail, Warn};
            let (name, meaning) = (check.as_str(), check.meaning());
            let (fail, warn) = (of_check(Fail), of_check(Warn));
            writeln!(table, "| `{name}` | {meaning} | {fail} | {warn} |").unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/doctor.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(path).unwrap_or_default(),
            table,
            "docs/doctor.md is stale: run `BLESS=1 cargo test -p dataplane-user`"
        );
    }
}
