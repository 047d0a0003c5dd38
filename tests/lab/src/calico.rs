//! Objects of Calico's, as it writes them to etcd: key and value.
//!
//! Fields that nobody here reads are there as well, since real objects have them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// What every key begins with.
pub const PREFIX: &str = "/calico";

/// An object as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where.
    pub key: String,
    /// JSON.
    pub value: Value,
}

impl Stored {
    /// With one field of the value changed.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        if let Some(field) = self.value.pointer_mut(pointer) {
            *field = value;
        }
        self
    }
}

/// The key of a block, `10.20.42.0/26`.
#[must_use]
pub fn block_key(cidr: &str) -> String {
    format!("{PREFIX}/ipam/v2/assignment/ipv4/block/{}", cidr.replace('/', "-"))
}

/// A block of a node, in which that node's tunnel address is in use (the first one)
/// and others' addresses are, each at an ordinal from 1 on.
#[must_use]
pub fn block(cidr: &str, host: &str, borrowed: &[(usize, &str)]) -> Stored {
    let length: u32 = cidr.split('/').nth(1).and_then(|it| it.parse().ok()).unwrap_or(32);
    let size = 1_usize << (32 - length.min(32));
    let mut allocations = vec![Value::Null; size];
    allocations[0] = json!(0);
    let mut attributes = vec![json!({
        "handle_id": format!("ipip-tunnel-addr-{host}"),
        "secondary": {"node": host, "type": "ipipTunnelAddress"},
    })];
    for (ordinal, node) in borrowed {
        allocations[*ordinal] = json!(attributes.len());
        attributes.push(json!({
            "handle_id": format!("k8s-pod-network.{ordinal}"),
            "secondary": {
                "namespace": "default", "node": node, "pod": format!("web-{ordinal}"),
                "timestamp": "2026-11-01 00:00:00 +0000 UTC",
            },
        }));
    }
    let unallocated: Vec<usize> = (0..size).filter(|n| allocations[*n].is_null()).collect();
    let value = json!({
        "cidr": cidr, "affinity": format!("host:{host}"),
        "affinity_claim_time": "2026-11-01T00:00:00Z",
        "allocations": allocations, "unallocated": unallocated, "attributes": attributes,
        "sequenceNumber": 17, "sequenceNumberForAllocation": {"0": 3},
        "deleted": false, "strictAffinity": false,
    });
    Stored { key: block_key(cidr), value }
}

/// A confirmed affinity.
#[must_use]
pub fn affinity(cidr: &str, host: &str) -> Stored {
    Stored {
        key: format!("{PREFIX}/ipam/v2/host/{host}/ipv4/block/{}", cidr.replace('/', "-")),
        value: json!({"state": "confirmed", "deleted": false}),
    }
}

/// A node with its underlay address and prefix length, `172.16.36.10/24`.
#[must_use]
pub fn node(name: &str, cidr: &str, tunnel: Ipv4Addr) -> Stored {
    let address = cidr.split('/').next().unwrap_or(cidr);
    Stored {
        key: format!("{PREFIX}/resources/v3/projectcalico.org/nodes/{name}"),
        value: json!({
            "kind": "Node", "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": name, "uid": "6f1b5d1e-0000-4000-8000-000000000001",
                "creationTimestamp": "2026-11-01T00:00:00Z",
                "labels": {"kubernetes.io/hostname": name},
            },
            "spec": {
                "bgp": {"ipv4Address": cidr, "ipv4IPIPTunnelAddr": tunnel},
                "addresses": [
                    {"address": cidr, "type": "CalicoNodeIP"},
                    {"address": address, "type": "InternalIP"},
                ],
                "orchRefs": [{"nodeName": name, "orchestrator": "k8s"}],
            },
            "status": {},
        }),
    }
}

/// A pool; `ipip` is `Always`, `CrossSubnet` or `Never`.
#[must_use]
pub fn pool(name: &str, cidr: &str, ipip: &str) -> Stored {
    Stored {
        key: format!("{PREFIX}/resources/v3/projectcalico.org/ippools/{name}"),
        value: json!({
            "kind": "IPPool", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": name, "creationTimestamp": "2026-11-01T00:00:00Z"},
            "spec": {
                "cidr": cidr, "ipipMode": ipip, "vxlanMode": "Never", "natOutgoing": true,
                "blockSize": 26, "nodeSelector": "all()", "disabled": false,
                "allowedUses": ["Workload", "Tunnel"],
            },
        }),
    }
}
