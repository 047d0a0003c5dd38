//! `tunless config …`

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::{
    config::{ConfigFile, EXAMPLE},
    daemon,
    exit::Exit,
    output::{self, Format},
};

#[derive(Serialize)]
struct Validated {
    valid: bool,
    routes: usize,
    nodes: usize,
}

pub async fn validate(path: &Path, here: bool, format: Format) -> Result<Exit> {
    let file = ConfigFile::read(path)?;
    if here {
        daemon::check_here(&file).await?;
    }
    let routes = file.config.routes.fixed.len();
    let nodes = crate::desired::configured_nodes(&file.config).len();
    let text = format!(
        "{}: fine: {} to {}",
        path.display(),
        output::count(routes, "route"),
        output::count(nodes, "node")
    );
    output::done(format, &Validated { valid: true, routes, nodes }, &text)?;
    Ok(Exit::Ok)
}

/// In the file's own language, unless JSON is asked for.
pub fn show(path: &Path, format: Format) -> Result<Exit> {
    let config = ConfigFile::read(path)?.config;
    let text = serde_yaml::to_string(&config)?;
    output::object(format, &config, || text)?;
    Ok(Exit::Ok)
}

pub fn example() -> Result<Exit> {
    output::text(EXAMPLE)?;
    Ok(Exit::Ok)
}
