//! `tunless endpoints …`

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::Result;
use dataplane_common::{Endpoint, IfIndex};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Maps,
    exit::Exit,
    kernel::{Kernel, PodTraffic},
    output::{self, Format, Row},
    schema,
};

#[derive(JsonSchema, Serialize)]
pub(super) struct EndpointItem {
    /// The pod's address.
    ip: Ipv4Addr,
    /// The host's end of its interface.
    interface: String,
    /// The index of that interface.
    ifindex: IfIndex,
    /// The pod's MAC; `null` until the kernel has resolved it.
    #[schemars(extend("pattern" = schema::MAC))]
    mac: Option<String>,
    /// What the pod's interface has counted, pods of this node and the host included; `null`: it cannot be
    /// asked.
    traffic: Option<Traffic>,
}

/// Frames and their bytes since the pod's interface was made.
#[derive(JsonSchema, Serialize)]
struct Traffic {
    /// Frames that the pod sent.
    from_pod_packets: u64,
    /// Bytes that the pod sent.
    from_pod_bytes: u64,
    /// Frames that the pod got.
    into_pod_packets: u64,
    /// Bytes that the pod got.
    into_pod_bytes: u64,
}

impl From<&PodTraffic> for Traffic {
    fn from(PodTraffic { from_pod, into_pod }: &PodTraffic) -> Self {
        Self {
            from_pod_packets: from_pod.packets,
            from_pod_bytes: from_pod.bytes,
            into_pod_packets: into_pod.packets,
            into_pod_bytes: into_pod.bytes,
        }
    }
}

impl Row for EndpointItem {
    const COLUMNS: &'static [&'static str] = &[
        "IP",
        "INTERFACE",
        "IFINDEX",
        "MAC",
        "FROM POD PACKETS",
        "FROM POD BYTES",
        "INTO POD PACKETS",
        "INTO POD BYTES",
    ];

    fn cells(&self) -> Vec<String> {
        let figure = |of: fn(&Traffic) -> u64| {
            self.traffic.as_ref().map_or_else(|| "-".to_owned(), |traffic| of(traffic).to_string())
        };
        vec![
            self.ip.to_string(),
            self.interface.clone(),
            self.ifindex.to_string(),
            self.mac.clone().unwrap_or_else(|| "not resolved yet".into()),
            figure(|traffic| traffic.from_pod_packets),
            figure(|traffic| traffic.from_pod_bytes),
            figure(|traffic| traffic.into_pod_packets),
            figure(|traffic| traffic.into_pod_bytes),
        ]
    }
}

/// All local pods, by address.
pub async fn list(maps: &Maps, format: Format) -> Result<Exit> {
    let pods: BTreeMap<Ipv4Addr, Endpoint> = maps
        .endpoints
        .iter()
        .map(|entry| entry.map(|(ip, endpoint)| (ip.into(), endpoint)))
        .collect::<Result<_, _>>()?;
    let interfaces: BTreeSet<IfIndex> = pods.values().map(|pod| pod.hop.ifindex).collect();
    let traffic = Kernel::connect()?.pod_traffic(&interfaces).await?;
    let item = |(ip, Endpoint { hop }): (&Ipv4Addr, &Endpoint)| EndpointItem {
        ip: *ip,
        interface: super::interface_name(hop.ifindex),
        ifindex: hop.ifindex,
        mac: hop.destination.is_known().then(|| hop.destination.to_string()),
        traffic: traffic.get(&hop.ifindex).map(Traffic::from),
    };
    let items: Vec<EndpointItem> = pods.iter().map(item).collect();
    output::list(format, &items)?;
    Ok(Exit::Ok)
}
