//! The cards themselves: are they what the other cases take them for?

use anyhow::{Result, ensure};
use tunless_lab::Lab;

use crate::suites::{Case, Guest, smoke::interop};
use crate::tunl0;

/// What every kernel must do.
pub const CASES: &[Case] =
    &[Case { name: "tunl0_to_tunl0_over_nics", loads_tunless: false, run: tunl0_to_tunl0 }];

fn tunl0_to_tunl0(_: &Guest) -> Result<()> {
    let lab = Lab::new().nics(true).third_node(true).fabric_filter(true).build()?;
    for (node, driver) in [(&lab.node1, "virtio_net"), (&lab.node2, "virtio_net")]
        .into_iter()
        .chain(lab.node3.as_ref().map(|node| (node, "vmxnet3")))
    {
        let text = node.netns.exec("ethtool", &["-i", "eth0"])?;
        ensure!(text.lines().any(|line| line == format!("driver: {driver}")), "{text}");
    }
    tunl0::raise_on_both(&lab)?;
    interop::pings(&lab)?;
    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    Ok(())
}
