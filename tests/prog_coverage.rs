//! No reason without a case. The list is the enum's own: a new variant fails
//! here until a table knows it.

use std::collections::BTreeSet;

use dataplane_common::Reason;
use tunless_tests::{case::Case, live::LiveCase};

use super::{
    prog_decap_tc, prog_decap_tc_leased, prog_decap_xdp, prog_encap_host, prog_encap_host_leased,
    prog_encap_pod, prog_encap_pod_leased, prog_encap_tunl0, prog_grant_decap, prog_live,
    prog_live_leased,
};

/// Nothing here takes what is left to tunl0, and only a real one shows that it does:
/// the case "a pod running VXLAN" of the suite `accelerate` of `cargo xtask vm test`
/// counts each such packet.
const ELSEWHERE: [Reason; 1] = [Reason::Tunl0AlreadyEncapsulated];

#[test]
fn every_reason_has_a_case() {
    let rows = [
        prog_encap_pod::cases(),
        prog_encap_pod_leased::cases(),
        prog_encap_host::cases(),
        prog_encap_host_leased::cases(),
        prog_encap_tunl0::cases(),
        prog_decap_tc::cases(),
        prog_decap_tc_leased::cases(),
        prog_decap_xdp::cases(),
        prog_grant_decap::cases(),
    ]
    .concat();
    let live =
        [prog_live::cases(), prog_live_leased::cases(), prog_live::cases_with_the_fast_path_off()]
            .concat();
    let mut covered: BTreeSet<Reason> = rows.iter().flat_map(Case::reasons).collect();
    covered.extend(live.iter().flat_map(LiveCase::reasons));
    covered.extend(ELSEWHERE);
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !covered.contains(reason)).collect();
    println!("coverage: {} of {} reasons", covered.len(), Reason::COUNT);
    assert!(missing.is_empty(), "no case in any table for {missing:?}");
}
