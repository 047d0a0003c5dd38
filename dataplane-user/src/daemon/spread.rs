//! Which CPUs go on with received packets: looked at, decided, logged.

use anyhow::Result;

use super::{
    decide::{
        Decider,
        spread::{Heat, Seen, Spreading},
    },
    observe::receive_queues,
};
use crate::{
    config::{Mode, Spread},
    kernel::Host,
};

/// Looks at the underlay's receive queues and decides which CPUs go on with their packets.
///
/// # Errors
/// If sysfs cannot be read. Then the last decision stays.
pub fn spread(decider: &mut Decider, host: &Host, heat: Heat) -> Result<()> {
    let Some(last) = decider.last() else { return Ok(()) };
    let config = &decider.file().config;
    let setting = match config.mode {
        Mode::Shadow => Spread::Off,
        _ => config.underlay.spread,
    };
    let before = decider.memory().spreading.clone();
    let is_off = setting == Spread::Off && before == Spreading::default();
    let seen = match is_off {
        // Nothing of sysfs is needed, so nothing there can fail.
        true => Seen::default(),
        false => receive_queues::look(host, &last.facts.receiving, heat, &before)?,
    };
    decider.spread(&seen);
    let now = &decider.memory().spreading.cpus;
    match now {
        Some(cpus) if before.cpus != *now => tracing::info!(
            "received packets are spread over CPUs {} from now on (`underlay.spread: {}`)",
            cpus.ranges(),
            setting.as_str()
        ),
        None if before.cpus.is_some() => {
            tracing::info!("received packets are no longer spread over the CPUs");
        }
        _ => {}
    }
    Ok(())
}
