//! Hosts whose underlay is more than a NIC: bonds, VLANs, WireGuard, VRFs, with tunl0 at the other
//! end. The table of all shapes is `docs/hosts.md`.

mod beside;
mod bond;
mod scene;
mod vlan;
mod vrf;
mod wireguard;

pub use self::scene::{until, wait_problem};
use super::{Case, Suite};
use crate::Kernel;

/// The suite.
pub const SUITE: Suite = Suite {
    name: "hosts",
    about: "bond, VLAN, WireGuard and VRF as the underlay, in both modes, with XDP and without",
    parts: &[],
    cases,
};

fn cases(_: Kernel) -> Vec<Case> {
    [bond::CASES, vlan::CASES, beside::CASES, wireguard::CASES, vrf::CASES].concat()
}
