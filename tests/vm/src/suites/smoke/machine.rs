//! The machine itself, before tunless comes in.

use anyhow::{Result, ensure};
use nix::sys::utsname::uname;
use tunless_lab::Lab;

use crate::{
    suites::{Case, Guest},
    tunl0,
};

/// What every kernel must do.
pub const CASES: &[Case] = &[
    Case { name: "kernel_is_the_one_asked_for", loads_tunless: false, run: kernel },
    Case { name: "tunl0_to_tunl0", loads_tunless: false, run: tunl0_to_tunl0 },
];

fn kernel(guest: &Guest) -> Result<()> {
    let found = uname()?;
    let release = found.release().to_string_lossy();
    ensure!(guest.kernel.is(&release), "{} was asked for, not {release}", guest.kernel.name());
    Ok(())
}

fn tunl0_to_tunl0(_: &Guest) -> Result<()> {
    let lab = Lab::new().fabric_filter(true).build()?;
    tunl0::raise_on_both(&lab)?;
    super::interop::pings(&lab)?;
    let plain = lab.plain_packets_on_wire()?;
    ensure!(plain == 0, "{plain} packets of pods were on the wire without a tunnel");
    Ok(())
}
