//! A bond of two links to one switch, the router: packets pass, also when the active link fails.

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{Lab, Node, addr::mac_text};

use super::{
    super::Case,
    scene::{ACCELERATE, REPLACE, SOON, Scene, Setup, Underlay, Xdp, until},
};

/// In both modes.
pub const CASES: &[Case] = &[
    Case { name: "bond_replace_off", loads_tunless: true, run: |_| run(REPLACE, Xdp::Off) },
    Case {
        name: "bond_accelerate_verified",
        loads_tunless: true,
        run: |_| run(ACCELERATE, Xdp::Off),
    },
    Case { name: "bond_xdp", loads_tunless: true, run: |_| run(REPLACE.by_xdp(), NO_XDP) },
];

const NO_XDP: Xdp = Xdp::Unsupported("bond0 is a bond");
/// The router's ports to node2 are one bridge, with the gateway's address.
pub const SWITCH: &str = "switch36";

/// The router's port to the bond's second link.
fn second_port(lab: &Lab) -> String {
    format!("{}-b", lab.node2.router_port)
}

/// Gives node2 a second link, and puts its address on a bond of both.
pub fn shape(lab: &Lab) -> Result<()> {
    let Node { ip, mac, gateway, gateway_mac, router_port: first, netns, .. } = &lab.node2;
    let (second, mac, gateway_mac) = (second_port(lab), mac_text(*mac), mac_text(*gateway_mac));
    lab.router.ip_batch(&format!(
        "link add {second} type veth peer name eth1 netns {}\n\
         addr del {gateway}/24 dev {first}\n\
         link add {SWITCH} address {gateway_mac} type bridge\n\
         link set {first} master {SWITCH}\n\
         link set {second} master {SWITCH} up\n\
         addr add {gateway}/24 dev {SWITCH}\n\
         link set {SWITCH} up\n",
        netns.name(),
    ))?;
    netns.ip_batch(&format!(
        "addr flush dev eth0\n\
         link set eth0 down\n\
         link add bond0 address {mac} type bond mode active-backup miimon 20\n\
         link set eth0 master bond0\n\
         link set eth1 master bond0\n\
         link set bond0 up\n\
         addr add {ip}/24 dev bond0\n\
         route add default via {gateway}\n"
    ))
}

/// Returns the link that the bond sends and receives by.
fn active(lab: &Lab) -> Result<String> {
    let netns = &lab.node2.netns;
    let links: serde_json::Value = serde_json::from_str(&netns.ip("-j -d link show bond0")?)?;
    let active = &links[0]["linkinfo"]["info_data"]["active_slave"];
    active.as_str().map(str::to_owned).with_context(|| format!("none is active: {links}"))
}

fn run(setup: Setup, xdp: Xdp) -> Result<()> {
    let underlay = Underlay { link: "bond0", beside: &[], vlan: None, xdp };
    Scene::new(setup, underlay, shape)?.case(|scene| {
        scene.carries()?;
        fail_over(scene)?;
        // As at first: the capture is on the first link.
        scene.carries()
    })
}

/// In the middle of a conversation the active link loses its carrier, and then the other one does.
fn fail_over(scene: &Scene) -> Result<()> {
    let lab = &scene.lab;
    let talk = scene.converse()?;
    let ports = [("eth0", lab.node2.router_port.clone()), ("eth1", second_port(lab))];
    for ((name, port), (other, _)) in ports.iter().zip(ports.iter().rev()) {
        ensure!(active(lab)? == *name, "{name} is not the active one");
        lab.router.ip(&format!("link set {port} down"))?;
        until(|| {
            let active = active(lab)?;
            ensure!(active == *other, "{active} is still the active one, not {other}");
            Ok(())
        })?;
        ensure!(talk.wait_for(50, SOON), "the conversation ends with the link {name}");
        lab.router.ip(&format!("link set {port} up"))?;
        until(|| {
            let text = lab.node2.netns.ip(&format!("-d link show {name}"))?;
            ensure!(text.contains("mii_status UP"), "{name} has no carrier yet: {text}");
            Ok(())
        })?;
    }
    Ok(())
}
