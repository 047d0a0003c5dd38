//! The Service that loads ask, as kube-proxy's rules make it: one pod is behind it.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use tunless_lab::{
    service::{Protocol, Service, kube_proxy},
    traffic::load,
};

use super::stage::Stage;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 10, 48, 9);
/// Where UDP is thrown away, at the Service and at the pod: discard.
const DISCARD: (u16, u16) = (99, 9);
/// Where TCP is answered, at the Service.
const ANSWERED: u16 = 80;

/// Where UDP is sent to.
pub const UDP: SocketAddrV4 = SocketAddrV4::new(ADDRESS, DISCARD.0);
/// Where TCP connects to.
pub const TCP: SocketAddrV4 = SocketAddrV4::new(ADDRESS, ANSWERED);

/// Lets the node of the pod that asks translate for the Service.
///
/// # Errors
/// If iptables refuses.
pub fn open(stage: &Stage) -> Result<()> {
    let behind = |port| vec![SocketAddrV4::new(stage.lab.sit().ip, port)];
    let udp = Service {
        name: "default/bench:discard".to_owned(),
        protocol: Protocol::Udp,
        address: UDP,
        endpoints: behind(DISCARD.1),
    };
    let tcp = Service {
        name: "default/bench:answer".to_owned(),
        protocol: Protocol::Tcp,
        address: TCP,
        endpoints: behind(load::PORT),
    };
    kube_proxy(&stage.lab.node2.netns, &[udp, tcp])
}
