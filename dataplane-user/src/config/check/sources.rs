//! The sources of routes: what is wrong with them whatever they are.

use std::collections::BTreeSet;

use super::{Problem, bird, etcd, kubernetes};
use crate::config::Config;

pub fn check(config: &Config, problems: &mut Vec<Problem>) {
    let sources = &config.sources;
    let mut seen = BTreeSet::new();
    for (index, kind) in sources.precedence.iter().enumerate() {
        if !seen.insert(*kind) {
            problems.push(Problem::new(
                ["sources".into(), "precedence".into(), index.into()],
                format!("{kind} is listed twice"),
                "name each source once, the most trusted first",
            ));
        }
    }
    if sources.kernel.as_ref().is_some_and(|kernel| kernel.protocols.is_empty()) {
        problems.push(Problem::new(
            ["sources".into(), "kernel".into(), "protocols".into()],
            "no protocol is listed, so no route would be read",
            "use [12, 80], BIRD's and Felix's",
        ));
    }
    if let Some(bird) = &sources.bird {
        bird::check(bird, problems);
    }
    if let Some(etcd) = &sources.etcd {
        etcd::check(etcd, problems);
    }
    if let Some(kubernetes) = &sources.kubernetes {
        kubernetes::check(kubernetes, problems);
    }
    let mut pools = BTreeSet::new();
    for (index, pool) in config.routes.pools.iter().enumerate() {
        if !pools.insert(pool.cidr) {
            problems.push(Problem::new(
                ["routes".into(), "pools".into(), index.into(), "cidr".into()],
                format!("the pool {} is listed twice", pool.cidr),
                "say once how packets travel there",
            ));
        }
    }
}
