//! Real Helm, without its command: the engine of Helm 4 as a library, in a package of `PyPI` that
//! `cargo xtask setup` puts below `target`.
//!
//! Debian has no Helm, and no crate renders the templates of one: they are Go's, with the functions of
//! Sprig and Helm's own `toYaml`, `include`, `lookup` and `Files`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{cmd, daemon::target_dir};

/// The program that calls it.
const PROGRAM: &str = include_str!("helm.py");
/// The directory with its module, in [`directory`].
pub const MODULE: &str = "helm_python";
/// The package, and the version with Helm 4.2.3 in it.
pub const PACKAGE: &str = "helm-python-sdk==0.2.2";

/// Where the package is unpacked.
pub fn directory() -> Result<PathBuf> {
    Ok(target_dir()?.join("helm"))
}

/// What became of a chart and values.
#[derive(Debug)]
pub enum Rendered {
    /// The text that each template became, by its path below `templates`.
    Files(BTreeMap<String, String>),
    /// Helm refused the values, in its own words.
    Refused(String),
}

/// Renders the chart in a directory as a release of this name.
pub fn render(chart: &Path, name: &str, namespace: &str, values: &Value) -> Result<Rendered> {
    let place = directory()?;
    ensure!(
        place.join(MODULE).is_dir(),
        "no {}: `cargo xtask setup` puts Helm there",
        place.display()
    );
    let ask = json!({"chart": chart, "name": name, "namespace": namespace, "values": values});
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).env("PYTHONPATH", &place);
    let printed = cmd::check(&mut command, ask.to_string().as_bytes())?;
    let answer: Value = serde_json::from_str(&printed).context("what Helm printed is not JSON")?;
    if let Some(refused) = answer["refused"].as_str() {
        return Ok(Rendered::Refused(refused.to_owned()));
    }
    for lint in answer["lint"].as_array().context("Helm's lint did not run")? {
        let errors = lint["errors"].as_array().context("Helm's lint found no list")?;
        ensure!(errors.is_empty(), "`helm lint --strict`: {errors:?}");
    }
    let Value::Object(files) = &answer["files"] else { bail!("Helm rendered nothing: {answer}") };
    let prefix = "tunless/templates/";
    let files = files.iter().map(|(path, text)| {
        let path = path.strip_prefix(prefix).unwrap_or(path);
        (path.to_owned(), text.as_str().unwrap_or_default().to_owned())
    });
    Ok(Rendered::Files(files.collect()))
}
