//! Services as kube-proxy's IPVS mode makes them.
//!
//! By the socket options that are IPVS' older interface (`linux/ip_vs.h`), so no program is needed.

use std::{net::SocketAddrV4, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};
use nix::{errno::Errno, libc};
use socket2::{Domain, Socket, Type};

use crate::{netns::Netns, service::Service};

/// `IP_VS_SO_SET_ADD`, `IP_VS_SO_SET_ADDDEST`, `IP_VS_SO_SET_FLUSH`.
const ADD: libc::c_int = 64 + 1024 + 64 + 2;
const ADD_DESTINATION: libc::c_int = ADD + 5;
const FLUSH: libc::c_int = ADD + 3;
/// The device that has the Services' addresses.
const DEVICE: &str = "kube-ipvs0";

/// Makes the node's virtual servers those of exactly these services, each by turns between its endpoints
/// and tracked by conntrack, as kube-proxy has it.
pub fn kube_proxy_ipvs(node: &Netns, services: &[Service]) -> Result<()> {
    node.set_sysctl("ipv4/vs/conntrack", "1")?;
    // Fails if it is not there.
    let _ = node.ip(&format!("link del {DEVICE}"));
    node.ip(&format!("link add {DEVICE} type dummy"))?;
    for service in services {
        node.ip(&format!("addr replace {}/32 dev {DEVICE}", service.address.ip()))?;
    }
    node.run(|| {
        set(FLUSH, &[])?;
        for service in services {
            let virtual_server = virtual_server(service);
            set(ADD, &virtual_server)
                .with_context(|| format!("adding the virtual server {}", service.address))?;
            for endpoint in &service.endpoints {
                set(ADD_DESTINATION, &[&virtual_server[..], &destination(*endpoint)].concat())
                    .with_context(|| format!("adding {endpoint} to {}", service.address))?;
            }
        }
        Ok(())
    })
}

/// `struct ip_vs_service_user`.
fn virtual_server(service: &Service) -> Vec<u8> {
    let mut bytes = Vec::new();
    let protocol = u16::from(service.protocol.number());
    bytes.extend_from_slice(&protocol.to_ne_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&service.address.ip().octets());
    bytes.extend_from_slice(&service.address.port().to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
    // No mark of a firewall.
    bytes.extend_from_slice(&[0; 4]);
    let mut scheduler = b"rr".to_vec();
    scheduler.resize(16, 0);
    bytes.extend_from_slice(&scheduler);
    // Flags, timeout, mask of persistence.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&[0xff; 4]);
    bytes
}

/// `struct ip_vs_dest_user`: addresses are translated (`IP_VS_CONN_F_MASQ`, 0), weight 1.
fn destination(endpoint: SocketAddrV4) -> Vec<u8> {
    let mut bytes = endpoint.ip().octets().to_vec();
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
    for number in [0_u32, 1, 0, 0] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn set(option: libc::c_int, value: &[u8]) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(libc::IPPROTO_RAW.into()))?;
    let length = libc::socklen_t::try_from(value.len())?;
    // SAFETY: the pointer is to as many bytes as are named, which the kernel copies.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            value.as_ptr().cast(),
            length,
        )
    };
    Errno::result(result).context("IPVS refuses")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;

    #[test]
    fn structures_are_as_the_kernel_has_them() {
        let service = Service {
            name: String::new(),
            protocol: Protocol::Udp,
            address: "10.10.48.9:53".parse().unwrap(),
            endpoints: Vec::new(),
        };
        let bytes = virtual_server(&service);
        assert_eq!(bytes.len(), 44);
        assert_eq!(bytes[4..10], [10, 10, 48, 9, 0, 53]);
        assert_eq!(bytes[16..19], *b"rr\0");
        let bytes = destination("10.20.42.31:7000".parse().unwrap());
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..6], [10, 20, 42, 31, 0x1b, 0x58]);
    }
}
