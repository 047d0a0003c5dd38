//! `tunless leases …`

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::Result;
use dataplane_common::{Flow, Lease, Translation};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::{Maps, Pins, frozen},
    clock,
    exit::Exit,
    output::{self, Format, Row},
    protocol, schema,
};

#[derive(JsonSchema, Serialize)]
pub(super) struct LeaseItem {
    /// The protocol's name.
    protocol: String,
    /// The source of the flow's packets, as they come: address and port.
    #[schemars(extend("pattern" = schema::ADDRESS_AND_PORT))]
    source: SocketAddrV4,
    /// The destination of the flow's packets, as they come: address and port.
    #[schemars(extend("pattern" = schema::ADDRESS_AND_PORT))]
    destination: SocketAddrV4,
    /// Of a flow to a Service: what a packet's destination becomes (encap), or its source (decap); `null`
    /// for every other flow.
    #[schemars(extend("pattern" = schema::ADDRESS_AND_PORT))]
    translated_to: Option<SocketAddrV4>,
    /// `encap` from a pod of this node, `decap` to one.
    #[schemars(extend("enum" = schema::directions()))]
    direction: &'static str,
    /// The other node's underlay address.
    node: Ipv4Addr,
    /// The local pod's interface.
    interface: String,
    /// How long it is good for, seconds.
    expires_in_seconds: f64,
    /// Packets that used it.
    packets: u64,
    /// Bytes of these packets.
    bytes: u64,
}

impl Row for LeaseItem {
    const COLUMNS: &'static [&'static str] = &[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "TRANSLATED TO",
        "DIRECTION",
        "NODE",
        "POD DEV",
        "EXPIRES IN",
        "PACKETS",
        "BYTES",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.source.to_string(),
            self.destination.to_string(),
            self.translated_to.map_or_else(|| "-".to_owned(), |end| end.to_string()),
            self.direction.into(),
            self.node.to_string(),
            self.interface.clone(),
            format!("{:.1}s", self.expires_in_seconds),
            self.packets.to_string(),
            self.bytes.to_string(),
        ]
    }
}

/// Those that are good now, the busiest first.
pub fn list(maps: &Maps, format: Format) -> Result<Exit> {
    let now = clock::monotonic();
    let mut leases = maps.good_leases(now)?;
    leases.sort_unstable_by_key(|(flow, lease)| {
        (std::cmp::Reverse(lease.packets), flow.source.0, flow.source_port, flow.direction)
    });
    let items: Vec<_> = leases.iter().map(|(flow, lease)| item(flow, lease, now)).collect();
    output::list(format, &items)?;
    Ok(Exit::Ok)
}

fn item(flow: &Flow, lease: &Lease, now: Duration) -> LeaseItem {
    let (source, destination) = flow.ends();
    let Translation { address, port, .. } = lease.translation;
    LeaseItem {
        protocol: protocol::name(flow.protocol.into()),
        source,
        destination,
        translated_to: (!lease.translation.is_none())
            .then(|| SocketAddrV4::new(address.into(), u16::from_be(port))),
        direction: flow.direction().as_str(),
        node: lease.node.into(),
        interface: super::interface_name(lease.endpoint),
        expires_in_seconds: Duration::from_nanos(lease.expires).saturating_sub(now).as_secs_f64(),
        packets: lease.packets,
        bytes: lease.bytes,
    }
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Flushed {
    /// How many leases ended.
    flushed: usize,
}

/// Ends all leases, also those of another version whose programs may still be attached: the next
/// packet of every flow asks netfilter again.
pub fn flush(pins: &Pins, maps: &Maps, format: Format) -> Result<Exit> {
    let flushed = maps.good_leases(clock::monotonic())?.len();
    maps.epochs.raise_all();
    for directory in pins.other_versions()? {
        frozen::end_leases(&directory)?;
    }
    let text = format!("{} ended; netfilter is asked again", output::count(flushed, "lease"));
    output::done(format, &Flushed { flushed }, &text)?;
    Ok(Exit::Ok)
}
