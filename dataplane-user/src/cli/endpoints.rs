//! `tunless endpoints …`

use std::net::Ipv4Addr;

use anyhow::Result;
use dataplane_common::{Endpoint, IfIndex};
use serde::Serialize;

use crate::{
    bpf::Maps,
    exit::Exit,
    output::{self, Format, Row},
};

#[derive(Serialize)]
struct EndpointItem {
    ip: Ipv4Addr,
    interface: String,
    ifindex: IfIndex,
    /// The pod's MAC; `None` until the kernel has resolved it.
    mac: Option<String>,
}

impl Row for EndpointItem {
    const COLUMNS: &'static [&'static str] = &["IP", "INTERFACE", "IFINDEX", "MAC"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.ip.to_string(),
            self.interface.clone(),
            self.ifindex.to_string(),
            self.mac.clone().unwrap_or_else(|| "not resolved yet".into()),
        ]
    }
}

pub fn list(maps: &Maps, format: Format) -> Result<Exit> {
    let mut items = Vec::new();
    for entry in maps.endpoints.iter() {
        let (ip, Endpoint { hop }) = entry?;
        items.push(EndpointItem {
            ip: ip.into(),
            interface: super::interface_name(hop.ifindex),
            ifindex: hop.ifindex,
            mac: hop.destination.is_known().then(|| hop.destination.to_string()),
        });
    }
    items.sort_unstable_by_key(|item| item.ip);
    output::list(format, &items)?;
    Ok(Exit::Ok)
}
