//! `tunless version`

use anyhow::Result;
use dataplane_common::abi::ABI;
use serde::Serialize;

use crate::{
    exit::Exit,
    output::{self, Format},
};

#[derive(Serialize)]
struct Version {
    version: &'static str,
    /// The layout of the maps: two programs with the same number read each other's.
    abi: String,
}

pub fn version(format: Format) -> Result<Exit> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), abi: format!("{ABI:08x}") };
    output::object(format, &version, || {
        format!("tunless {} (maps v{})", version.version, version.abi)
    })?;
    Ok(Exit::Ok)
}
