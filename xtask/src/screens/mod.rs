//! `cargo xtask screens`: the pictures in the documents, made from real runs.
//!
//! | question | file |
//! |---|---|
//! | which pictures there are, by which commands | [`picture`] |
//! | nodes, pods and traffic that they are taken of | [`cluster`] |
//! | what a terminal shows after the bytes of a command | [`screen`] (pure) |
//! | how that becomes an SVG | [`drawing`] (pure) |
//! | the dashboard | [`dashboard`] |

mod cluster;
mod dashboard;
#[cfg(test)]
mod documents;
mod drawing;
mod picture;
mod screen;
mod svg;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use self::{cluster::Cluster, picture::Picture};
use crate::{demo, interrupt, setup, workspace};

/// Make the pictures in `docs/screens` anew, from real runs.
///
/// Sets the machine up first (see `setup`) and builds tunless, then runs tunless on three nodes in network
/// namespaces, with traffic between their pods. What a command prints there into a pseudo-terminal is drawn as
/// an SVG. Before `doctor` a link of the router becomes narrow, and the router silent about it. The dashboard is
/// that of `packaging/`: a real Prometheus scrapes the nodes for a minute and answers the queries of its panels,
/// which are drawn by this command, not by Grafana. All of it is removed at the end, also after Ctrl-C. Run it
/// as root. Figures differ from run to run; look at the pictures before you commit them. `trace` needs a kernel
/// that lets programs be watched (docs/trace.md); elsewhere it is left out.
///
/// `TUNLESS_BIN` names a binary to take in place of a release build.
#[derive(clap::Args)]
pub struct Arguments {
    /// The pictures to make: all, unless some are named.
    #[arg(value_enum, value_name = "NAME")]
    names: Vec<Picture>,
}

/// Makes the pictures.
///
/// # Errors
/// At the first picture that cannot be made, or does not show what it is for; those before it are written.
pub fn run(arguments: &Arguments) -> Result<()> {
    // In the order of their making: the fault is planted last.
    let is_wanted =
        |picture: &&Picture| arguments.names.is_empty() || arguments.names.contains(picture);
    let wanted: Vec<Picture> =
        Picture::value_variants().iter().filter(is_wanted).copied().collect();
    setup::run()?;
    if wanted.contains(&Picture::Dashboard) {
        setup::prometheus()?;
    }
    demo::build()?;
    interrupt::watch()?;
    let mut cluster = Cluster::build()?;
    for picture in wanted {
        interrupt::check()?;
        let name = picture.name();
        let svg = picture.make(&mut cluster).with_context(|| format!("no picture `{name}`"))?;
        let path = directory().join(picture.file());
        let Some(svg) = svg else {
            println!(
                "{}: not made, this kernel lets no program be watched",
                workspace::shown(&path)
            );
            continue;
        };
        fs::create_dir_all(directory())?;
        fs::write(&path, &svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} KiB", workspace::shown(&path), svg.len().div_ceil(1024));
    }
    match cluster.tidy().as_slice() {
        [] => Ok(()),
        problems => bail!("not everything went away: {}", problems.join("; ")),
    }
}

/// Where the pictures are.
fn directory() -> PathBuf {
    workspace::root().join("docs/screens")
}
