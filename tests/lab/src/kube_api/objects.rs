//! Objects as a cluster has them, with all that nobody here reads.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{V1_BLOCKS, V3_AFFINITIES, V3_BLOCKS};

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "uid": "6f1c3b0e-5d0b-4d6c-9a57-0d5f0c1f6e3a",
        "creationTimestamp": "2026-11-01T08:15:00Z", "generation": 1,
        "managedFields": [{
            "manager": "kubelet", "operation": "Update", "apiVersion": "v1",
            "time": "2026-11-01T08:15:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:annotations": {".": {}}}},
        }],
    })
}

/// A node whose address Calico's agent found: `172.17.0.6/16`.
#[must_use]
pub fn node(name: &str, address: &str) -> Value {
    let internal = address.split('/').next().unwrap_or_default();
    let mut node = bare_node(name, internal);
    node["metadata"]["annotations"] = json!({
        "kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock",
        "projectcalico.org/IPv4Address": address,
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    });
    node
}

/// The same with the address that Calico allocated for its IPIP device.
#[must_use]
pub fn tunnel_node(name: &str, address: &str, tunnel: Ipv4Addr) -> Value {
    let mut node = node(name, address);
    node["metadata"]["annotations"]["projectcalico.org/IPv4IPIPTunnelAddr"] = json!(tunnel);
    node
}

/// A node without Calico's annotations.
#[must_use]
pub fn bare_node(name: &str, internal: &str) -> Value {
    let mut metadata = metadata(name);
    metadata["labels"] = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"});
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": metadata,
        "spec": {"providerID": format!("lab://{name}")},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": internal},
                {"type": "Hostname", "address": name},
            ],
            "capacity": {"cpu": "4", "memory": "16384Mi", "pods": "110"},
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": "2026-11-01T08:20:00Z",
            }],
            "images": [{"names": ["registry.k8s.io/pause:3.10"], "sizeBytes": 320_448}],
            "nodeInfo": {"kubeletVersion": "v1.34.1", "osImage": "Debian GNU/Linux 13 (trixie)"},
        },
    })
}

/// A node whose pods get their addresses from a CIDR of its own.
#[must_use]
pub fn host_local_node(name: &str, internal: &str, pods: &str) -> Value {
    let mut node = bare_node(name, internal);
    node["spec"]["podCIDR"] = json!(pods);
    node["spec"]["podCIDRs"] = json!([pods]);
    node
}

/// What serves behind a Service, as its controller writes it.
#[must_use]
pub fn endpoint_slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let mut metadata = metadata(service);
    metadata["namespace"] = json!(namespace);
    metadata["labels"] = json!({"kubernetes.io/service-name": service});
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

/// How a block is called: `10-65-1-0-26`.
#[must_use]
pub fn block_name(cidr: &str) -> String {
    cidr.replace(['.', '/'], "-")
}

/// A block of a node's, with addresses lent to others: (which, to whom).
#[must_use]
pub fn block(path: &str, cidr: &str, host: &str, lent: &[(usize, &str)]) -> Value {
    let mut attributes = vec![json!({
        "handle_id": format!("ipip-tunnel-addr-{host}"),
        "secondary": {"node": host, "type": "ipipTunnelAddress"},
    })];
    let mut allocations = vec![Value::Null; 64];
    allocations[0] = json!(0);
    for (ordinal, node) in lent {
        if let Some(allocation) = allocations.get_mut(*ordinal) {
            *allocation = json!(attributes.len());
        }
        attributes.push(json!({
            "handle_id": format!("k8s-pod-network.{ordinal}"),
            "secondary": {"namespace": "default", "node": node, "pod": format!("web-{ordinal}")},
        }));
    }
    let free = allocations.iter().enumerate().filter(|(_, allocation)| allocation.is_null());
    let free: Vec<_> = free.map(|(ordinal, _)| ordinal).collect();
    let mut spec = json!({
        "cidr": cidr, "affinity": format!("host:{host}"), "allocations": allocations,
        "attributes": attributes, "unallocated": free, "sequenceNumber": 17,
        "sequenceNumberForAllocation": {"0": 3}, "strictAffinity": false, "deleted": false,
    });
    if path == V3_BLOCKS {
        spec["affinityClaimTime"] = json!("2026-11-01T08:15:00Z");
    }
    let version =
        if path == V1_BLOCKS { "crd.projectcalico.org/v1" } else { "projectcalico.org/v3" };
    json!({
        "kind": "IPAMBlock", "apiVersion": version, "metadata": metadata(&block_name(cidr)),
        "spec": spec,
    })
}

/// A node's confirmed affinity to a block.
#[must_use]
pub fn affinity(path: &str, cidr: &str, host: &str) -> Value {
    let (group, deleted) = if path == V3_AFFINITIES {
        ("projectcalico.org/v3", json!(false))
    } else {
        ("crd.projectcalico.org/v1", json!("false"))
    };
    let name = format!("{host}-{}", block_name(cidr));
    json!({
        "kind": "BlockAffinity", "apiVersion": group, "metadata": metadata(&name),
        "spec": {"cidr": cidr, "node": host, "state": "confirmed", "deleted": deleted},
    })
}

/// A pool: `Always`, `CrossSubnet` or `Never` by IPIP.
#[must_use]
pub fn pool(name: &str, cidr: &str, ipip_mode: &str) -> Value {
    json!({
        "kind": "IPPool", "apiVersion": "crd.projectcalico.org/v1", "metadata": metadata(name),
        "spec": {
            "cidr": cidr, "ipipMode": ipip_mode, "vxlanMode": "Never", "natOutgoing": true,
            "blockSize": 26, "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"],
            "disabled": false,
        },
    })
}
