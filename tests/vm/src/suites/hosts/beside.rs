//! A NIC with the node's address, untagged, and a VLAN beside it, by which encapsulated packets may
//! arrive, too: XDP on the NIC sees them, with their tag or without.

use anyhow::{Result, ensure};
use dataplane_common::Reason;
use tunless_lab::{Lab, Node, traffic::ping};

use super::{
    super::{Case, counted::Counted},
    scene::{ACCELERATE, REPLACE, Scene, Setup, Underlay, Xdp, until, wait_problem},
};

/// Tags that the NIC takes out of the frame, and tags that it leaves there.
pub const CASES: &[Case] = &[
    Case { name: "beside_vlan_stripped_xdp", loads_tunless: true, run: |_| proven_first() },
    Case { name: "beside_vlan_stripped_first_xdp", loads_tunless: true, run: |_| tagged_first() },
    Case { name: "beside_vlan_in_frame_xdp", loads_tunless: true, run: |_| in_frame_of_veth() },
    Case { name: "beside_vlan_in_frame_nic_auto", loads_tunless: true, run: |_| in_frame_of_nic() },
];

const VLAN: u16 = 7;
const UNDERLAY: Underlay = Underlay { link: "eth0", beside: &["eth0.7"], vlan: None, xdp: Xdp::On };
const WHY: &str = "packets of a VLAN arrive";

/// Adds a VLAN to the wire of node2, with a network of its own.
fn shape(lab: &Lab) -> Result<()> {
    let Node { router_port: port, netns, .. } = &lab.node2;
    lab.router.ip_batch(&format!(
        "link add link {port} name {port}.{VLAN} type vlan id {VLAN}\n\
         addr add 172.16.77.1/24 dev {port}.{VLAN}\n\
         link set {port}.{VLAN} up\n"
    ))?;
    netns.ip_batch(&format!(
        "link add link eth0 name eth0.{VLAN} type vlan id {VLAN}\n\
         addr add 172.16.77.10/24 dev eth0.{VLAN}\n\
         link set eth0.{VLAN} up\n"
    ))
}

/// The fabric sends to node2 by the VLAN, or untagged.
fn by_vlan(lab: &Lab, on: bool) -> Result<()> {
    let Node { ip, router_port: port, .. } = &lab.node2;
    let verb = if on { "replace" } else { "del" };
    lab.router.ip(&format!("route {verb} {ip}/32 via 172.16.77.10 dev {port}.{VLAN}")).map(drop)
}

/// A veth passes tags beside the frame, as a NIC that strips them. XDP has decapsulated before the
/// first such packet comes, so that packet is lost, and no other.
fn proven_first() -> Result<()> {
    let mut scene = Scene::new(REPLACE.by_xdp(), UNDERLAY, shape)?;
    scene.carries()?;
    let before = Counted::now(&scene.daemon)?;
    by_vlan(&scene.lab, true)?;
    let (perf, sit) = (scene.lab.perf(), scene.lab.sit());
    let many = ping::Options { count: 40, ..ping::Options::default() };
    let report = ping::ping(&sit.netns, perf.ip, &many)?;
    let counted = before.since(&scene.daemon)?;
    let lost = u64::from(report.sent - report.received);
    ensure!(counted.packets(Reason::DecapHandoverStray) == lost, "{counted:?}\n{}", report.text);
    ensure!((1..=3).contains(&lost), "{lost} packets were lost:\n{}", report.text);
    scene.underlay.xdp = Xdp::Left(WHY);
    by_vlan(&scene.lab, false)?;
    given_up(scene)
}

/// The first packets come by the VLAN: they are only marked, and none is lost.
fn tagged_first() -> Result<()> {
    let underlay = Underlay { xdp: Xdp::Left(WHY), ..UNDERLAY };
    let shape = |lab: &Lab| {
        shape(lab)?;
        by_vlan(lab, true)
    };
    let scene = Scene::new(ACCELERATE.by_xdp(), underlay, shape)?;
    let before = Counted::now(&scene.daemon)?;
    scene.talk()?;
    let counted = before.since(&scene.daemon)?;
    counted.nothing_dropped()?;
    counted.lacks(&[Reason::XdpUnwrapped])?;
    by_vlan(&scene.lab, false)?;
    given_up(scene)
}

/// TC decapsulates what comes untagged and what comes by the VLAN, also after a restart.
fn given_up(scene: Scene) -> Result<()> {
    scene.case(|scene| {
        wait_problem(&scene.daemon, "xdp-handover", WHY)?;
        both_ways_of_arrival(scene)
    })
}

fn both_ways_of_arrival(scene: &Scene) -> Result<()> {
    scene.carries()?;
    by_vlan(&scene.lab, true)?;
    scene.talk()?;
    let before = Counted::now(&scene.daemon)?;
    scene.talk()?;
    let counted = before.since(&scene.daemon)?;
    counted.nothing_dropped()?;
    counted.nothing_for_tunl0()?;
    // No mark and no hand-over is on what TC alone takes.
    counted.lacks(&[Reason::XdpUnwrapped, Reason::XdpMarked])?;
    by_vlan(&scene.lab, false)?;
    until(|| scene.carries())
}

/// The tag is in the frame, where XDP sees it and leaves the packet: XDP goes on with all others.
fn in_frame(setup: Setup, nics: bool) -> Result<()> {
    let shape = |lab: &Lab| {
        if !nics {
            let port = &lab.node2.router_port;
            lab.router.exec("ethtool", &["-K", port, "txvlan", "off"])?;
        }
        shape(lab)
    };
    Scene::of(Lab::new().nics(nics), setup, UNDERLAY, shape)?.case(both_ways_of_arrival)
}

fn in_frame_of_veth() -> Result<()> {
    in_frame(REPLACE.by_xdp(), false)
}

fn in_frame_of_nic() -> Result<()> {
    in_frame(ACCELERATE, true)
}
