//! The receive queues of the underlay, and which CPUs go on with their packets.

use std::collections::BTreeSet;

use anyhow::Result;
use dataplane_common::IfIndex;

use crate::{
    daemon::decide::spread::{Heat, Seen, Spreading},
    kernel::{
        Host,
        receive_queues::{below, is_shown, usable_cpus},
    },
};

/// Looks at the queues of the links by which encapsulated packets arrive, and at those remembered.
///
/// # Errors
/// If sysfs cannot be read.
pub fn look(
    host: &Host,
    receiving: &BTreeSet<IfIndex>,
    heat: Heat,
    memory: &Spreading,
) -> Result<Seen> {
    let mut seen = Seen {
        cpus: usable_cpus()?,
        heat,
        queues: Default::default(),
        underlay: Default::default(),
    };
    for link in receiving.iter().filter_map(|ifindex| host.links.get(ifindex)) {
        if is_shown(host, &link.name)? {
            seen.queues.extend(below(&link.name)?);
        }
    }
    seen.underlay = seen.queues.keys().cloned().collect();
    for queue in memory.queues.keys().filter(|queue| !seen.underlay.contains(queue)) {
        if is_shown(host, queue.interface())?
            && let Some(cpus) = queue.read()?
        {
            seen.queues.insert(queue.clone(), cpus);
        }
    }
    Ok(seen)
}
