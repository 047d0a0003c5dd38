//! `tunless config …`

use std::path::Path;

use anyhow::Result;

use crate::{
    config::{ConfigFile, EXAMPLE},
    daemon,
    exit::Exit,
    output::{self, Format},
};

pub async fn validate(path: &Path, here: bool) -> Result<Exit> {
    let file = ConfigFile::read(path)?;
    if here {
        daemon::check_here(&file).await?;
    }
    eprintln!(
        "{}: fine: {} to {}",
        path.display(),
        output::count(file.config.routes.fixed.len(), "route"),
        output::count(crate::desired::nodes(&file.config).len(), "node")
    );
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
