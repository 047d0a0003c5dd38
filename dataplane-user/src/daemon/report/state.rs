//! What the daemon reports to the command line: a JSON file in the run directory, which can be
//! read while the daemon is down.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use dataplane_common::{IfIndex, Mtu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::{silence::SilentNodes, underlay_errors::LatestErrors},
    Problem, Work,
};
use crate::{
    bpf::{Attachment, Pins},
    config::{Fastpath, Mode, Spoof},
    desired::TunnelMode,
    kernel::receive_queues::Cpus,
    run_dir,
    sources::status::SourcesStatus,
};

/// The form of the file. A command of another version reads what it understands and reports
/// the rest as unknown.
pub const SCHEMA: u32 = 1;

/// The daemon's report.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct State {
    /// The form of the file: raised where a field is removed or changed, not where one is added.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: u32,
    /// A random number of this run: a process id means nothing in a container.
    pub run: String,
    /// The daemon's process id, in its own namespace.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// The layout of its maps.
    pub abi: String,
    /// When it last compared everything: `CLOCK_MONOTONIC`, seconds.
    pub heartbeat: f64,
    /// The text of the configuration that is active: where it was read, and when (Unix seconds).
    pub config: ConfigState,
    /// What is wrong, the gravest first.
    pub problems: Vec<Problem>,
    /// What it decided; `null` before the first reconcile.
    pub decided: Option<Decided>,
    /// Over which CPUs received packets are spread; `null`: over none.
    #[serde(default)]
    pub spread: Option<Cpus>,
    /// The sources of routes.
    pub sources: SourcesStatus,
    /// The latest error of the underlay about packets to each node.
    #[serde(default)]
    pub underlay_errors: LatestErrors,
    /// Nodes that packets were sent to since they were last heard.
    #[serde(default)]
    pub silent: SilentNodes,
    /// What it has done since it started.
    #[serde(default)]
    pub work: Work,
}

/// Which configuration is active.
#[derive(Clone, PartialEq, Eq, Default, Debug, Deserialize, JsonSchema, Serialize)]
pub struct ConfigState {
    /// Its path.
    pub path: PathBuf,
    /// When it was accepted, Unix seconds.
    pub since: u64,
    /// The SHA-256 of its text, in hexadecimal.
    #[serde(default)]
    pub sha256: String,
}

impl ConfigState {
    /// Of a text that is accepted now, from this file.
    #[must_use]
    pub fn accepted(path: &Path, text: &str) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let sha256 = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: path.to_owned(), since: unix_now(), sha256 }
    }
}

/// What the daemon decided for this node.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Decided {
    /// With tunl0 or without.
    pub mode: TunnelMode,
    /// `mode: shadow`: tunl0 carries every packet, and programs only look.
    #[serde(default)]
    pub is_shadow: bool,
    /// Why, for people.
    pub mode_ground: String,
    /// The fast path that the loaded programs use.
    pub fastpath: Fastpath,
    /// What they do with spoofed packets.
    pub spoof: Spoof,
    /// The underlay address.
    pub node: Ipv4Addr,
    /// Why it is that one, for people.
    pub node_ground: String,
    /// The tunnel device.
    pub tunnel: Tunnel,
    /// The programs that should be attached.
    pub attachments: Vec<Attachment>,
    /// Whether the nft table that marks flows should be there.
    pub marks: bool,
    /// Whether the node has routes, and so needs forwarding.
    pub has_routes: bool,
    /// Interfaces of local pods, by index.
    #[serde(default)]
    pub pods: BTreeSet<IfIndex>,
    /// Interfaces by which unencapsulated packets for pods arrive, by index.
    #[serde(default)]
    pub plain_underlay: BTreeSet<IfIndex>,
}

impl Decided {
    /// Returns the mode as the file would name it.
    #[must_use]
    pub const fn mode_name(&self) -> &'static str {
        if self.is_shadow { Mode::Shadow.as_str() } else { self.mode.as_str() }
    }
}

/// The tunnel device.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct Tunnel {
    /// Its name.
    pub interface: String,
    /// Its interface index.
    pub ifindex: IfIndex,
    /// Its address; `null`: it has none.
    pub address: Option<Ipv4Addr>,
    /// Its MTU, bytes.
    pub mtu: Mtu,
}

impl State {
    /// Puts it where the command line finds it.
    ///
    /// # Errors
    /// If the run directory cannot be written.
    pub fn write(&self, pins: &Pins) -> Result<()> {
        run_dir::replace(&path(pins), &serde_json::to_vec(self)?)
    }

    /// As the daemon last left it; `None` if it never did.
    ///
    /// # Errors
    /// If it cannot be read, or is not of this form.
    pub fn read(pins: &Pins) -> Result<Option<Self>> {
        let path = path(pins);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let context = || format!("{} was written by another version of tunless", path.display());
        let state: Self = serde_json::from_slice(&text).with_context(context)?;
        ensure!(state.schema == SCHEMA, "{}: its form is {}", context(), state.schema);
        Ok(Some(state))
    }

    /// Removes it.
    ///
    /// # Errors
    /// If that is refused.
    pub fn remove(pins: &Pins) -> Result<()> {
        run_dir::remove(&path(pins))
    }
}

fn path(pins: &Pins) -> PathBuf {
    run_dir::file(pins, "state.json")
}

#[cfg(test)]
impl State {
    /// An empty one.
    pub(crate) fn for_tests() -> Self {
        Self {
            schema: SCHEMA,
            run: String::new(),
            pid: 1,
            version: "0.2.0".into(),
            abi: "v00000000".into(),
            heartbeat: 0.0,
            config: ConfigState::default(),
            problems: Vec::new(),
            decided: None,
            spread: None,
            sources: SourcesStatus::default(),
            underlay_errors: LatestErrors::new(),
            silent: SilentNodes::new(),
            work: Work::default(),
        }
    }
}

/// Unix time, seconds.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use dataplane_common::Program;

    use super::{super::Last, *};
    use crate::vocabulary::SourceKind;

    /// As `sha256sum` prints it (FIPS 180-2, B.1).
    #[test]
    fn a_configuration_is_known_by_its_hash() {
        assert_eq!(
            ConfigState::accepted(Path::new("x"), "abc").sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let state = State {
            schema: SCHEMA,
            run: "5f".into(),
            pid: 7,
            version: "0.2.0".into(),
            abi: "v00000000".into(),
            heartbeat: 12.5,
            config: ConfigState { since: 3, ..ConfigState::accepted(Path::new("/etc/a"), "") },
            problems: vec![Problem::new(super::super::Code::ForwardingOff, "eth0", "off")],
            decided: Some(Decided {
                mode: TunnelMode::Replace,
                is_shadow: false,
                mode_ground: "the file".into(),
                fastpath: Fastpath::Verified,
                spoof: Spoof::Drop,
                node: Ipv4Addr::new(172, 16, 36, 10),
                node_ground: "the file".into(),
                tunnel: Tunnel {
                    interface: "tunless0".into(),
                    ifindex: IfIndex(4),
                    address: None,
                    mtu: Mtu(1480),
                },
                attachments: vec![Attachment { program: Program::EncapHost, ifindex: IfIndex(4) }],
                marks: true,
                has_routes: false,
                pods: [IfIndex(9)].into(),
                plain_underlay: BTreeSet::new(),
            }),
            spread: Some(Cpus([0, 2].into())),
            sources: SourcesStatus::default(),
            underlay_errors: LatestErrors::new(),
            silent: SilentNodes::new(),
            work: Work {
                started: 1,
                last: Some(Last { at: 2.5, seconds: 0.25 }),
                heard: [(SourceKind::Etcd, 7)].into(),
                ..Work::default()
            },
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        for part in [r#""program":"encap_host","ifindex":4"#, r#""mtu":1480"#, r#""pods":[9]"#] {
            assert!(text.contains(part), "{text}");
        }
    }
}
