//! Which of the project's files a package has, and where.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The configuration, below the root: the operator's file, which upgrades keep.
pub const CONFIG: &str = "etc/tunless/config.yaml";
/// The unit, below the root.
pub const UNIT: &str = "usr/lib/systemd/system/tunless.service";
/// What the unit's `Documentation=` names, below the root.
pub const DOCUMENT: &str = "usr/share/doc/tunless/README.md";
/// The program, below the root.
pub const BINARY: &str = "usr/bin/tunless";
/// Manual pages of section 8, below the root.
pub const PAGES: &str = "usr/share/man/man8";

/// Each shell, as `tunless completions` knows it, with the file that it reads.
pub const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/tunless"),
    ("zsh", "usr/share/zsh/vendor-completions/_tunless"),
    ("fish", "usr/share/fish/vendor_completions.d/tunless.fish"),
];

/// Files of the project that are installed as they are: from the project's top level, to below
/// the root.
const FILES: [(&str, &str); 11] = [
    ("packaging/tunless.service", UNIT),
    ("packaging/config.yaml", CONFIG),
    ("packaging/bird.conf", "usr/share/doc/tunless/examples/bird.conf"),
    ("packaging/rbac.yaml", "usr/share/doc/tunless/examples/rbac.yaml"),
    ("packaging/tunless.rules.yaml", "usr/share/doc/tunless/examples/tunless.rules.yaml"),
    ("packaging/grafana-dashboard.json", "usr/share/doc/tunless/examples/grafana-dashboard.json"),
    ("packaging/debian/copyright", "usr/share/doc/tunless/copyright"),
    ("README.md", DOCUMENT),
    ("ARCHITECTURE.md", "usr/share/doc/tunless/ARCHITECTURE.md"),
    ("CONTRIBUTING.md", "usr/share/doc/tunless/CONTRIBUTING.md"),
    ("SECURITY.md", "usr/share/doc/tunless/SECURITY.md"),
];

/// The changelog, which package managers want compressed.
pub const CHANGELOG: (&str, &str) = ("CHANGELOG.md", "usr/share/doc/tunless/changelog.gz");

/// The documents lie beside the README as in the project, so that its links lead to them.
const DOCS: (&str, &str) = ("docs", "usr/share/doc/tunless/docs");

/// All files that are copied as they are: in the project, and below the root.
pub fn files(project: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut files: Vec<_> =
        FILES.iter().map(|(from, to)| (project.join(from), PathBuf::from(to))).collect();
    below(&project.join(DOCS.0), Path::new(DOCS.1), &mut files)?;
    Ok(files)
}

/// Adds every file below a directory: where it is, and where it goes.
pub fn below(from: &Path, to: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> Result<()> {
    let context = || format!("cannot read {}", from.display());
    let mut entries = fs::read_dir(from)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(context)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().with_context(context)?.is_dir() {
            below(&from, &to, files)?;
        } else {
            files.push((from, to));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::project;

    #[test]
    fn every_file_is_there_and_goes_to_a_place_of_its_own() {
        let files = files(&project()).unwrap();
        let mut places: Vec<_> = files.iter().map(|(_, to)| to.clone()).collect();
        for (from, to) in &files {
            assert!(from.is_file(), "{}", from.display());
            assert!(to.is_relative(), "{}", to.display());
        }
        places.sort();
        places.dedup();
        assert_eq!(places.len(), files.len());
        for wanted in ["docs/problems.md", "docs/adr/0007-upgrades.md", "docs/operations.md"] {
            let wanted = Path::new("usr/share/doc/tunless").join(wanted);
            assert!(places.contains(&wanted), "{}", wanted.display());
        }
    }

    #[test]
    fn the_document_that_the_unit_names_is_installed() {
        let unit = fs::read_to_string(project().join("packaging/tunless.service")).unwrap();
        let named = unit.lines().find_map(|line| line.strip_prefix("Documentation=file:///"));
        assert_eq!(named, Some(DOCUMENT));
        let program = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/"));
        assert_eq!(program, Some(format!("{BINARY} run --config /{CONFIG}").as_str()));
    }

    /// They run without this program, so they have the paths themselves.
    #[test]
    fn the_scripts_name_what_is_installed() {
        let script = |name: &str| {
            fs::read_to_string(project().join("packaging/scripts").join(name)).unwrap()
        };
        for name in ["postinst", "prerm"] {
            assert!(script(name).contains(&format!("binary=/{BINARY}\n")), "{name}");
        }
        assert!(script("postinst").contains(&format!("config=/{CONFIG}\n")));
        for name in ["postinst", "prerm", "postrm"] {
            assert!(script(name).contains("unit=tunless.service\n"), "{name}");
            assert!(script(name).contains("kept=/var/lib/tunless\n"), "{name}");
        }
    }
}
