//! No reason without a case. The list is the enum's own: a new variant fails
//! here until a table knows it.

use std::collections::BTreeSet;

use dataplane_common::Reason;
use tunless_tests::{case::Case, live::LiveCase};

use super::{
    daemon_dead, decap_beside_tunl0, decap_tc, decap_tc_leased, decap_xdp, encap_host,
    encap_host_leased, encap_pod, encap_pod_leased, encap_tunl0, grant_decap, live, live_leased,
    services, tried, unanswered,
};

/// Nothing here takes what is left to tunl0, and only a real one shows that it does:
/// the case "a pod running VXLAN" of the suite `accelerate` of `cargo xtask vm test`
/// counts each such packet. And only GRO makes a GSO packet of a tunnel's: `live.rs`,
/// `gso_from_node_to_node`.
const ELSEWHERE: [Reason; 2] = [Reason::Tunl0AlreadyEncapsulated, Reason::DecapGsoToStack];
/// Only a kernel without memory refuses to write to a header that was readable a moment ago.
const WITHOUT_MEMORY: [Reason; 2] =
    [Reason::PodCannotTranslate, Reason::DecapCannotTranslateToStack];

/// The rows of all tables.
pub fn cases() -> Vec<Case> {
    [
        encap_pod::cases(),
        encap_pod_leased::cases(),
        encap_host::cases(),
        encap_host_leased::cases(),
        encap_tunl0::cases(),
        daemon_dead::cases(),
        decap_beside_tunl0::cases(),
        decap_tc::cases(),
        decap_tc_leased::cases(),
        decap_xdp::cases(),
        grant_decap::cases(),
        services::cases(),
        unanswered::cases(),
    ]
    .concat()
}

#[test]
fn every_reason_has_a_case() {
    let rows = [cases(), tried::cases()].concat();
    let live = [live::cases(), live_leased::cases(), live::cases_with_the_fast_path_off()].concat();
    let mut covered: BTreeSet<Reason> = rows.iter().flat_map(Case::reasons).collect();
    covered.extend(live.iter().flat_map(LiveCase::reasons));
    covered.extend(ELSEWHERE);
    covered.extend(WITHOUT_MEMORY);
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !covered.contains(reason)).collect();
    println!("coverage: {} of {} reasons", covered.len(), Reason::COUNT);
    assert!(missing.is_empty(), "no case in any table for {missing:?}");
}
