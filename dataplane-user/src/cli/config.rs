//! `tunless config …`

use std::path::Path;

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    bpf::Pins,
    config::{Config, ConfigFile, EXAMPLE},
    daemon::{
        apply::memory,
        preview::{Preview, preview},
    },
    exit::Exit,
    output::{self, Format},
};

#[derive(JsonSchema, Serialize)]
pub(super) struct Validated {
    /// Always true: a file that is refused is an error, and no JSON.
    #[schemars(extend("const" = true))]
    valid: bool,
    /// Routes in the file itself.
    routes: usize,
    /// Nodes in the file itself.
    nodes: usize,
    /// What the daemon would do on this host; only with `--here`.
    #[serde(skip_serializing_if = "Option::is_none")]
    here: Option<Preview>,
}

/// Checks a file; `here`: by this host, too. `bpffs`: wins over the file's.
pub async fn validate(
    path: &Path,
    here: bool,
    bpffs: Option<&Path>,
    format: Format,
) -> Result<Exit> {
    let mut file = ConfigFile::read(path)?;
    if let Some(directory) = bpffs {
        directory.clone_into(&mut file.config.bpffs.0);
    }
    let routes = file.config.routes.fixed.len();
    let nodes = crate::desired::configured_nodes(&file.config).len();
    let left_to_size = file.config.sources.left_to_size();
    let here = if here { Some(preview(file).await?) } else { None };
    let mut text = format!(
        "{}: fine: {} to {}",
        path.display(),
        output::count(routes, "route"),
        output::count(nodes, "node")
    );
    text.extend(left_to_size.map(|which| format!("\n{which}")));
    let validated = Validated { valid: true, routes, nodes, here };
    output::done(format, &validated, &text)?;
    if let Some(preview) = validated.here.filter(|_| format.is_for_people()) {
        output::text(&describe(&preview))?;
    }
    Ok(Exit::Ok)
}

/// What the daemon would do, for people.
fn describe(preview: &Preview) -> String {
    let mut lines = vec!["On this host the daemon would use".to_owned()];
    lines.push(match (preview.node, preview.node_ground) {
        (Some(node), Some(ground)) => format!("  node:       {node} ({ground})"),
        _ => "  node:       no address".to_owned(),
    });
    if let (Some(mode), Some(ground)) = (preview.mode, preview.mode_ground) {
        let (name, fastpath) = (mode.as_str(), preview.fastpath.as_str());
        lines.push(format!("  mode:       {name} ({ground}), fast path {fastpath}"));
        let address = preview.tunnel_address.map(|address| address.to_string());
        let address = address.unwrap_or_else(|| "without address".to_owned());
        let mtu = preview.tunnel_mtu.unwrap_or_default();
        lines.push(format!("  tunnel:     {} {address} mtu {mtu}", mode.device()));
    }
    for (source, reads) in &preview.reads {
        lines.push(format!("  {:<11} {reads}", format!("{source}:")));
    }
    let routes = output::count(preview.routes, "route");
    let endpoints = output::count(preview.endpoints, "endpoint");
    lines.push(format!("  tables:     {routes}, {endpoints}"));
    if preview.problems.is_empty() {
        lines.push("and `tunless status` would list no problem".to_owned());
    } else {
        lines.push("and `tunless status` would list".to_owned());
    }
    for problem in &preview.problems {
        lines.push(format!("  {}: {}", problem.level.as_str(), problem.text()));
    }
    lines.join("\n")
}

/// What the file says.
pub fn show(path: &Path, format: Format) -> Result<Exit> {
    print(&ConfigFile::read(path)?.config, format)
}

/// What the daemon of these pins uses, or used last. `path`: of the file, for complaints.
pub fn show_active(pins: &Pins, path: &Path, format: Format) -> Result<Exit> {
    let Some(text) = memory::read(pins)?.config else {
        bail!(
            "no daemon has accepted a configuration for the pins in {}; start it (`systemctl start \
             tunless`), or leave --active out",
            pins.root().display()
        );
    };
    print(&ConfigFile::from_text(path, text)?.config, format)
}

/// In the file's own language, unless JSON is asked for.
fn print(config: &Config, format: Format) -> Result<Exit> {
    let mut text = serde_yaml::to_string(config)?;
    text.extend(config.sources.left_to_size().map(|which| format!("# {which}\n")));
    output::object(format, config, || text)?;
    Ok(Exit::Ok)
}

pub fn example() -> Result<Exit> {
    output::text(EXAMPLE)?;
    Ok(Exit::Ok)
}
