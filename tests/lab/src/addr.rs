//! The addresses of the lab: those of the article the project grew from.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What every `cali*` interface of Calico has.
pub const CALI_MAC: Mac = [0xee; 6];

/// Every pod of the lab is in here.
pub const POD_CIDR: &str = "10.20.0.0/16";

/// Every service of the lab is in here.
pub const SERVICE_CIDR: &str = "10.10.48.0/24";

/// The service of the demo.
pub const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 10, 48, 254);

/// The pod of the demo on node2.
pub const HELLO_PERF: Ipv4Addr = Ipv4Addr::new(10, 20, 105, 215);

/// The pod of the demo on node1.
pub const HELLO_SIT: Ipv4Addr = Ipv4Addr::new(10, 20, 42, 31);

/// The gateway that every pod believes in; proxy ARP answers for it.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The MAC of a node's, router's or pod's interface: a locally administered
/// prefix and the IPv4 address, so that captures and injected frames are the
/// same in every run.
#[must_use]
pub fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x00, a, b, c, d]
}

/// `02:00:ac:10:24:0a`
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_follow_from_addresses() {
        let mac = mac_of(Ipv4Addr::new(172, 16, 36, 10));
        assert_eq!(mac_text(mac), "02:00:ac:10:24:0a");
    }
}
