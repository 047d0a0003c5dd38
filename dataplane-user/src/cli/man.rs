//! `tunless man`: the manual pages, made from the commands as `--help` shows them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap_mangen::Man;

use crate::{
    exit::Exit,
    output::{self, count},
};

/// System administration commands and daemons (man(1)).
const SECTION: &str = "8";

/// Writes a page for the program and one for each of its commands: `tunless.8`,
/// `tunless-routes-list.8`. `directory` has to be there.
pub fn write(program: clap::Command, directory: &Path) -> Result<Exit> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let pages = pages(&program);
    let number = pages.len();
    for page in pages {
        let path: PathBuf = directory.join(page.get_filename());
        page.generate_to(directory)
            .with_context(|| format!("cannot write the page {}", path.display()))?;
    }
    output::text(&format!("{} in {}", count(number, "page"), directory.display()))?;
    Ok(Exit::Ok)
}

/// One page for each command that `--help` lists, the command itself first.
fn pages(command: &clap::Command) -> Vec<Man> {
    let source = concat!("tunless ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).section(SECTION).source(source).manual("tunless");
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(page).chain(shown.flat_map(pages)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_that_help_lists_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        write(Cli::command(), directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        let program = read("tunless.8");
        assert!(program.contains(".TH tunless 8"), "{program}");
        assert!(program.contains("tunless\\-detach(8)"), "{program}");
        assert!(read("tunless-routes-list.8").contains("All remote pod CIDRs"));
        for hidden in ["tunless-man.8", "tunless-help.8", "tunless.1"] {
            assert!(!directory.path().join(hidden).exists(), "{hidden}");
        }
        let missing = write(Cli::command(), &directory.path().join("missing")).unwrap_err();
        assert!(format!("{missing:#}").contains("missing/tunless.8"), "{missing:#}");
    }
}
