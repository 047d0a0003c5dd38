//! Hosts whose underlay is more than a NIC: bonds, VLANs, WireGuard, VRFs, with tunl0 at the other
//! end. The table of all shapes is `docs/hosts.md`.

mod bond;
mod scene;
mod vlan;
mod vrf;
mod wireguard;

use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "hosts",
    about: "bond, VLAN, WireGuard and VRF as the underlay, in both modes",
    parts: &[],
    cases,
};

fn cases(_: Kernel) -> Vec<Case> {
    [bond::CASES, vlan::CASES, wireguard::CASES, vrf::CASES].concat()
}
