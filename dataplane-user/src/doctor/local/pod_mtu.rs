//! Pods' interfaces that take larger packets than the tunnel.

use super::super::{Check, Row, Verdict};
use crate::{daemon::report::Decided, kernel::Host, output};

/// So many interfaces are named.
const NAMED: usize = 5;

/// The row about those pods, if there are any.
pub fn row(decided: &Decided, host: &Host) -> Option<Row> {
    let mtu = decided.tunnel.mtu;
    let links = decided.pods.iter().filter_map(|index| host.links.get(index));
    let wide: Vec<&str> =
        links.filter(|link| link.mtu > mtu).map(|link| link.name.as_str()).collect();
    let first = wide.first()?;
    let named = wide.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = if wide.len() > NAMED { ", …" } else { "" };
    let what = format!(
        "the MTU of {} ({named}{more}) is above the tunnel's {mtu}: each connection of these pods \
         first hears that its packets are too big",
        output::count(wide.len(), "pod interface"),
    );
    Some(Row::new(Check::Mtu, Verdict::Warn, *first, what).remedy(format!(
        "set the pods' MTU to {mtu} (Calico: `mtu` of the CNI configuration), and start them again"
    )))
}
