//! A daemon with the capabilities of the unit that is shipped, and no others.

use anyhow::{Context as _, Result};

/// The unit that is shipped.
const UNIT: &str = include_str!("../../../../packaging/tunless.service");

/// Returns the arguments with which setpriv(1) confines the program that they are followed by.
pub fn confinement() -> Result<[String; 5]> {
    let mut lines = UNIT.lines();
    let line = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let mut bounding_set = "-all".to_owned();
    for capability in line.context("the unit bounds capabilities")?.split_whitespace() {
        let name = capability.strip_prefix("CAP_").context("a capability")?;
        bounding_set += &format!(",+{}", name.to_ascii_lowercase());
    }
    let words = ["--no-new-privs", "--inh-caps", "-all", "--bounding-set", &bounding_set];
    Ok(words.map(str::to_owned))
}
