//! What 64-byte UDP costs on every path, each part alone: from the sending pod to its
//! node, and from node to node through the router. Both begin with the generator and
//! end with dropping; the generator alone, on a device that drops, is measured, too,
//! so that it can be taken off once.
//!
//! From the node into the receiving pod is no part of it: how a packet gets there is
//! where paths differ most.

use anyhow::{Result, ensure};
use tunless_lab::{Lab, Netns};

use super::{
    pktgen::Pktgen,
    programs::as_float,
    sink::Sink,
    udp::{PACKETS, received, udp},
};
use crate::{figures::Figure, suites::Guest};

/// All parts.
pub fn measure(guest: &Guest) -> Result<()> {
    let lab = Lab::new().build()?;
    let (perf, sit) = (lab.perf(), lab.sit());
    let (node1, node2) = (&lab.node1, &lab.node2);
    let pods = udp(perf, sit, 1024..1025, 9..10, PACKETS);
    let note = |load: &str, nanoseconds: f64| {
        guest.figures.note(Figure {
            load: load.into(),
            endpoints: 0,
            flows: 1,
            routes: None,
            nanoseconds: nanoseconds / as_float(PACKETS),
            programs: Vec::new(),
        });
    };

    node2.netns.ip("link add bench0 type dummy")?;
    node2.netns.ip("link set bench0 up")?;
    // What the first run alone does is no part's.
    pods.send(&node2.netns, "bench0")?;
    note("generator", pods.send(&node2.netns, "bench0")?);

    let alone = |from: (&Netns, &str), to: (&Netns, &str), packets: &Pktgen| {
        let sink = Sink::open(to.0, to.1)?;
        let mut nanoseconds = 0.0;
        for _ in 0..2 {
            let (took, came) = received(&sink, || packets.send(from.0, from.1))?;
            ensure!(came == PACKETS, "{came} of {PACKETS} packets came to {}", to.1);
            nanoseconds = took;
        }
        sink.close()?;
        Ok::<_, anyhow::Error>(nanoseconds)
    };
    note("sender", alone((&perf.netns, "eth0"), (&node2.netns, &perf.cali), &pods)?);
    let nodes = Pktgen { from: node2.ip, to: node1.ip, to_mac: node2.gateway_mac, ..pods };
    note("fabric", alone((&node2.netns, "eth0"), (&node1.netns, "eth0"), &nodes)?);
    Ok(())
}
