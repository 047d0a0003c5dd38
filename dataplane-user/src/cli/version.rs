//! `tunless version`

use anyhow::Result;
use dataplane_common::abi::ABI;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Pins,
    daemon::{self, report::State},
    exit::Exit,
    output::{self, Format},
    schema,
};

#[derive(JsonSchema, Serialize)]
pub(super) struct Version {
    /// The version of this program.
    version: &'static str,
    /// The layout of the maps: two programs with the same number read each other's.
    #[schemars(extend("pattern" = schema::ABI))]
    abi: String,
    /// The daemon that runs; `null`: none does, or its report cannot be read.
    daemon: Option<Running>,
    /// The layout of the maps by which packets go; `null`: none, or they cannot be seen.
    #[schemars(extend("pattern" = schema::ABI))]
    serving: Option<String>,
}

/// The daemon that runs.
#[derive(JsonSchema, Serialize)]
struct Running {
    /// Its version.
    version: String,
    /// The layout of its maps.
    abi: String,
    /// Its process id, in its own namespace.
    pid: u32,
}

/// `pins`: where the daemon's are.
pub fn version(pins: Option<&Pins>, format: Format) -> Result<Exit> {
    let serving = pins.and_then(|pins| pins.active()?.file_name()?.to_str().map(layout));
    let daemon = pins.and_then(running);
    let own = env!("CARGO_PKG_VERSION");
    let version = Version { version: own, abi: format!("{ABI:08x}"), daemon, serving };
    output::object(format, &version, || describe(&version))?;
    Ok(Exit::Ok)
}

fn running(pins: &Pins) -> Option<Running> {
    let pid = daemon::running(pins)?;
    let state = State::read(pins).ok().flatten().filter(|state| state.pid == pid)?;
    Some(Running { version: state.version, abi: layout(&state.abi), pid })
}

/// The number of a layout, of the name of its directory.
fn layout(directory: &str) -> String {
    directory.trim_start_matches('v').to_owned()
}

fn describe(version: &Version) -> String {
    let mut lines = vec![format!("tunless {} (maps v{})", version.version, version.abi)];
    if let Some(Running { version, abi, pid }) = &version.daemon {
        lines.push(format!("daemon  {version} (maps v{abi}), process {pid}"));
    }
    lines.extend(version.serving.iter().map(|abi| format!("serving maps v{abi}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_printed() {
        let own = Version { version: "0.2.0", abi: "00000002".into(), daemon: None, serving: None };
        assert_eq!(describe(&own), "tunless 0.2.0 (maps v00000002)");
        let daemon = Some(Running { version: "0.1.1".into(), abi: layout("v00000001"), pid: 7 });
        let all = Version { daemon, serving: Some(layout("v00000001")), ..own };
        assert_eq!(
            describe(&all),
            "tunless 0.2.0 (maps v00000002)\n\
             daemon  0.1.1 (maps v00000001), process 7\n\
             serving maps v00000001"
        );
    }
}
