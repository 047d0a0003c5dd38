//! From nanoseconds to ratios.

use tunless_vm::figures::Figure;

use super::{
    BASE,
    figures::{Kept, Measured},
};
use crate::{
    bench::results::{Deterministic, Program},
    vm::measure::INSTRUCTIONS_PER_NANOSECOND,
};

/// What everything is compared with.
const STANDARD: &str = "tunl0";
/// The loads that have a net cost: 64-byte UDP to a pod, and to a Service.
pub const UDP: &str = "udp64";
pub const SERVICE: &str = "service64";

/// A row for every figure, as far as there is what it is compared with.
pub fn of(kept: &Kept) -> Vec<Deterministic> {
    let mut rows = Vec::new();
    for ((kernel, path), measured) in kept.iter().filter(|((_, path), _)| *path != BASE) {
        let standard = kept.get(&(*kernel, STANDARD));
        let base = kept.get(&(*kernel, BASE)).and_then(base);
        for figure in &measured.figures {
            let standard = standard.and_then(|standard| same(standard, figure));
            let net = |of: &Figure| base.map(|base| of.nanoseconds - base);
            let is_udp = figure.load == UDP || figure.load == SERVICE;
            let net_cost = net(figure).filter(|_| is_udp);
            let net_cost_ratio = standard.and_then(|standard| Some(net_cost? / net(standard)?));
            rows.push(Deterministic {
                kernel: measured.release.clone(),
                path: (*path).to_owned(),
                load: figure.load.clone(),
                endpoints: figure.endpoints,
                flows: figure.flows,
                routes: figure.routes,
                nanoseconds: figure.nanoseconds,
                time_ratio: standard.map(|standard| figure.nanoseconds / standard.nanoseconds),
                pps: is_udp.then(|| 1e9 / figure.nanoseconds),
                net_cost_ratio,
                programs: programs(figure),
            });
        }
    }
    rows
}

/// What a packet costs on every path: both parts, of which each began with the
/// generator and ended with dropping, which belong there once.
fn base(measured: &Measured) -> Option<f64> {
    let of = |load| {
        let figure = measured.figures.iter().find(|figure| figure.load == load)?;
        Some(figure.nanoseconds)
    };
    Some(of("sender")? + of("fabric")? - of("generator")?)
}

/// The figure for the same load.
fn same<'a>(measured: &'a Measured, of: &Figure) -> Option<&'a Figure> {
    let key = |figure: &Figure| (figure.load.clone(), figure.endpoints, figure.flows);
    measured.figures.iter().find(|figure| key(figure) == key(of))
}

fn programs(figure: &Figure) -> Vec<Program> {
    let program = |cost: &tunless_vm::figures::ProgramCost| Program {
        name: cost.name.clone(),
        runs: cost.runs,
        instructions: cost.nanoseconds * INSTRUCTIONS_PER_NANOSECOND,
    };
    figure.programs.iter().map(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(load: &str, nanoseconds: f64) -> Figure {
        Figure {
            load: load.into(),
            endpoints: 0,
            flows: 1,
            routes: None,
            nanoseconds,
            programs: Vec::new(),
        }
    }

    fn measured(figures: &[(&str, f64)]) -> Measured {
        let figures = figures.iter().map(|(load, nanoseconds)| figure(load, *nanoseconds));
        Measured { release: "6.12.1".into(), figures: figures.collect() }
    }

    #[test]
    fn what_all_paths_have_in_common_is_no_cost_of_theirs() {
        let base = measured(&[("generator", 1000.0), ("sender", 4000.0), ("fabric", 8000.0)]);
        let kept = Kept::from([
            (("6.12", "base"), base),
            (("6.12", "tunl0"), measured(&[(UDP, 51_000.0), ("tcp_rr", 200.0)])),
            (("6.12", "verified"), measured(&[(UDP, 19_000.0), ("tcp_rr", 100.0)])),
        ]);
        let rows = of(&kept);
        let verified: Vec<_> = rows.iter().filter(|row| row.path == "verified").collect();
        // (19 - 11) / (51 - 11)
        assert_eq!(verified[0].net_cost_ratio, Some(0.2));
        assert_eq!(verified[1].net_cost_ratio, None);
        assert_eq!(verified[1].time_ratio, Some(0.5));
        assert_eq!(rows.len(), 4, "the base is no path");
    }

    #[test]
    fn nothing_is_compared_with_another_kernels() {
        let kept = Kept::from([
            (("7.x", "tunl0"), measured(&[(UDP, 50_000.0)])),
            (("6.12", "verified"), measured(&[(UDP, 20_000.0)])),
        ]);
        let verified = of(&kept).into_iter().find(|row| row.path == "verified").unwrap();
        assert_eq!((verified.net_cost_ratio, verified.time_ratio), (None, None));
        assert_eq!(verified.pps, Some(50_000.0));
    }
}
