//! The node's address in a VLAN, over a NIC and over a bond.

use anyhow::Result;
use tunless_lab::{Lab, Node};

use super::{
    super::Case,
    bond,
    scene::{ACCELERATE, REPLACE, Scene, Setup, Underlay, Xdp},
};

/// In both modes.
pub const CASES: &[Case] = &[
    Case { name: "vlan_replace_off", loads_tunless: true, run: |_| over_nic(REPLACE, Xdp::Off) },
    Case {
        name: "vlan_accelerate_verified",
        loads_tunless: true,
        run: |_| over_nic(ACCELERATE, Xdp::Off),
    },
    Case { name: "vlan_xdp", loads_tunless: true, run: |_| over_nic(REPLACE.by_xdp(), NO_XDP) },
    Case {
        name: "vlan_over_bond_replace_off",
        loads_tunless: true,
        run: |_| over_bond(REPLACE, Xdp::Off),
    },
    Case {
        name: "vlan_over_bond_xdp",
        loads_tunless: true,
        run: |_| over_bond(ACCELERATE.by_xdp(), NO_XDP),
    },
];

const VLAN: u16 = 7;
const NO_XDP: Xdp = Xdp::Unsupported(".7 is a VLAN");

fn over_nic(setup: Setup, xdp: Xdp) -> Result<()> {
    let underlay = Underlay { link: "eth0.7", beside: &[], vlan: Some(VLAN), xdp };
    let shape = |lab: &Lab| tag(lab, "eth0", &lab.node2.router_port);
    Scene::new(setup, underlay, shape)?.case(Scene::carries)
}

fn over_bond(setup: Setup, xdp: Xdp) -> Result<()> {
    let underlay = Underlay { link: "bond0.7", beside: &[], vlan: Some(VLAN), xdp };
    let shape = |lab: &Lab| {
        bond::shape(lab)?;
        tag(lab, "bond0", bond::SWITCH)
    };
    Scene::new(setup, underlay, shape)?.case(Scene::carries)
}

/// Moves node2's address on `link`, and its gateway on the router's `port`, into a VLAN.
fn tag(lab: &Lab, link: &str, port: &str) -> Result<()> {
    let Node { ip, gateway, .. } = &lab.node2;
    lab.router.ip_batch(&format!(
        "addr del {gateway}/24 dev {port}\n\
         link add link {port} name {port}.{VLAN} type vlan id {VLAN}\n\
         addr add {gateway}/24 dev {port}.{VLAN}\n\
         link set {port}.{VLAN} up\n"
    ))?;
    lab.node2.netns.ip_batch(&format!(
        "addr flush dev {link}\n\
         link add link {link} name {link}.{VLAN} type vlan id {VLAN}\n\
         link set {link}.{VLAN} up\n\
         addr add {ip}/24 dev {link}.{VLAN}\n\
         route add default via {gateway}\n"
    ))
}
