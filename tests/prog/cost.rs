//! What `cargo xtask bench cost` measures is what it says.

use std::collections::BTreeSet;

use tunless_tests::{cost, prog::Program};

#[test]
fn every_program_is_measured_with_what_it_is_there_for_and_without() {
    // Every packet comes to what its row says, or this panics.
    let figures = cost::measure(1);
    let measured = |hit| -> BTreeSet<&str> {
        figures.iter().filter(|run| run.hit == hit).map(|run| &*run.program).collect()
    };
    let all: BTreeSet<&str> = Program::SERVING.iter().map(|program| program.as_str()).collect();
    assert_eq!(measured(true), all);
    assert_eq!(measured(false), all);
    let routes: BTreeSet<u32> = figures.iter().map(|run| run.routes).collect();
    assert_eq!(routes, BTreeSet::from([10, 1_000, 100_000]));
    assert!(figures.iter().any(|run| run.leases_full && run.fastpath == "verified"));
}
