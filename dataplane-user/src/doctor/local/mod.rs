//! Checks of this node that the list of problems does not have: from what the maps, the counters and
//! the kernel show now.

mod delivery;
mod fill;
mod hooks;
mod ipsec;
mod peers;
mod pod_mtu;
mod rp_filter;
mod spoofs;
mod wireguard;

pub use self::rp_filter::Watch;
use super::{Check, Row, Verdict};
use crate::{bpf::Pins, daemon::outside::Outside};

/// Where the pins are: whether they could be there at all.
pub fn place(pins: &Pins) -> Option<Row> {
    let error = pins.check_place().err()?;
    let place = pins.root().display().to_string();
    Some(Row::new(Check::Pins, Verdict::Fail, place, format!("{error:#}")))
}

/// All of them. `drops`: how many packets `rp_filter` was seen to drop.
pub async fn rows(outside: &Outside, drops: Option<u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some(maps) = &outside.maps {
        rows.push(fill::row(maps));
        rows.extend(peers::rows(maps, &outside.heard));
        rows.push(spoofs::row(maps));
        rows.extend(delivery::row(maps, outside.decided()));
    }
    if let Some(decided) = outside.decided() {
        rows.extend(hooks::rows(decided, outside).await);
        rows.push(wireguard::row(decided, &outside.host));
        rows.extend(pod_mtu::row(decided, &outside.host));
        rows.extend(ipsec::rows(decided, outside));
        rows.extend(rp_filter::rows(decided, outside, drops));
    }
    rows
}

/// The row of a check whose figures the kernel does not give.
fn unread(check: Check, error: &anyhow::Error) -> Row {
    Row::new(check, Verdict::Skip, "", format!("it could not be looked at: {error:#}"))
}
