//! Calico's data model, whatever datastore it is kept in: IPAM blocks are the
//! truth, nodes give addresses, pools say how packets travel.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// An IPAM block: who carries it, and which of its addresses were lent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// The node it belongs to, by name; `None`: to nobody (`virtual:` is nobody, too).
    pub host: Option<String>,
    /// Addresses in use on other nodes than `host`, and those nodes' names.
    pub borrowed: BTreeMap<Ipv4Addr, String>,
}

/// A node's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CalicoNode {
    /// Its underlay address; `None`: not known (yet), so there is no way to it.
    pub address: Option<Ipv4Addr>,
    /// The network that address is part of, as far as it is known; a /32 says that
    /// no other node is near.
    pub subnet: Option<Ipv4Net>,
}

/// An IP pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// How packets travel; `None`: by VXLAN, which is not ours to do.
    pub encap: Option<super::Encap>,
}
