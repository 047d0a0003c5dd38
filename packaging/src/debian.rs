//! The Debian package, by dpkg-deb(1).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};

use crate::{
    contents::{BINARY, CONFIG},
    tool,
    tree::{DATA, PROGRAM, Tree, gzip, put},
    version::Version,
};

const CONTROL: &str = include_str!("../debian/control");
const OVERRIDES: &str = include_str!("../debian/lintian-overrides");
/// What dpkg runs, by its own names.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("../scripts/postinst")),
    ("prerm", include_str!("../scripts/prerm")),
    ("postrm", include_str!("../scripts/postrm")),
];

/// How small, and so how slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As Debian's own packages are.
    Best,
    /// For a test.
    Fast,
}

/// Builds `tunless_<version>_<architecture>.deb` in a directory that is there; returns its path.
///
/// # Errors
/// If something cannot be written, or one of dpkg's programs fails.
pub fn build(
    tree: &Tree,
    version: &Version,
    output: &Path,
    compression: Compression,
) -> Result<PathBuf> {
    let work = tempfile::tempdir().context("no directory can be made for the package")?;
    let root = work.path().join("root");
    // By hard links: the same tree makes other packages, too.
    tool::run(Command::new("cp").args(["--archive", "--link"]).arg(tree.root()).arg(&root))?;
    let maintainer = maintainer();
    let changelog = changelog(version, &maintainer, tree.date())?;
    let changelog_path = Path::new("usr/share/doc/tunless/changelog.Debian.gz");
    put(&root, changelog_path, &gzip(changelog.as_bytes())?, DATA)?;
    let overrides = Path::new("usr/share/lintian/overrides/tunless");
    put(&root, overrides, OVERRIDES.as_bytes(), DATA)?;

    let sums = sums(&root)?;
    let architecture = architecture(env::consts::ARCH)?;
    let control = control(&Control {
        version: &version.debian(),
        architecture,
        maintainer: &maintainer,
        size: size(&root)?.div_ceil(1024),
        depends: &depends(&root.join(BINARY))?,
    });
    let conffiles = format!("/{CONFIG}\n");
    for (name, text) in [("control", &control), ("conffiles", &conffiles), ("md5sums", &sums)] {
        put(&root, &Path::new("DEBIAN").join(name), text.as_bytes(), DATA)?;
    }
    for (name, text) in SCRIPTS {
        put(&root, &Path::new("DEBIAN").join(name), text.as_bytes(), PROGRAM)?;
    }

    let package = output.join(format!("tunless_{}_{architecture}.deb", version.debian()));
    let mut command = Command::new("dpkg-deb");
    command.env("SOURCE_DATE_EPOCH", tree.date().as_second().to_string());
    command.arg("--root-owner-group").args(match compression {
        Compression::Best => ["-Zxz", "-z6"],
        Compression::Fast => ["-Zgzip", "-z1"],
    });
    tool::run(command.arg("--build").arg(&root).arg(&package))?;
    Ok(package)
}

/// What differs from package to package.
struct Control<'a> {
    version: &'a str,
    architecture: &'a str,
    maintainer: &'a str,
    /// In KiB.
    size: u64,
    depends: &'a str,
}

fn control(values: &Control) -> String {
    CONTROL
        .replace("{version}", values.version)
        .replace("{architecture}", values.architecture)
        .replace("{maintainer}", values.maintainer)
        .replace("{size}", &values.size.to_string())
        .replace("{depends}", values.depends)
}

/// Debian's name of an architecture of Rust's.
fn architecture(rust: &str) -> Result<&'static str> {
    match rust {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is made for {other}: tunless is built for x86_64 and aarch64"),
    }
}

/// Who made the package: as for Debian's own tools, `DEBFULLNAME` and `DEBEMAIL`.
pub(crate) fn maintainer() -> String {
    let given = |name: &str| env::var(name).ok().filter(|it| !it.is_empty());
    match (given("DEBFULLNAME"), given("DEBEMAIL")) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        _ => "The tunless authors <tunless@packages.invalid>".to_owned(),
    }
}

/// Debian's own changelog is about the package; what changed in the program is beside it.
fn changelog(version: &Version, maintainer: &str, date: Timestamp) -> Result<String> {
    let date = rfc2822::to_string(&date.to_zoned(TimeZone::UTC))?;
    let (version, upstream) = (version.debian(), version.upstream());
    Ok(format!(
        "tunless ({version}) unstable; urgency=medium\n\n  \
         * Package of tunless {upstream}; what changed in it: changelog.gz.\n\n \
         -- {maintainer}  {date}\n"
    ))
}

/// The libraries that a program needs, with the oldest versions that have what it calls.
pub(crate) fn depends(program: &Path) -> Result<String> {
    let work = tempfile::tempdir()?;
    // It reads which package it works for, in a source tree.
    let source = "Source: tunless\n\nPackage: tunless\nArchitecture: any\n";
    put(work.path(), Path::new("debian/control"), source.as_bytes(), DATA)?;
    let mut command = Command::new("dpkg-shlibdeps");
    let printed = tool::text(command.arg("-O").arg("-e").arg(program).current_dir(work.path()))?;
    parse_depends(&printed)
        .with_context(|| format!("dpkg-shlibdeps found no library of the program: {printed}"))
}

fn parse_depends(printed: &str) -> Option<String> {
    let line = printed.lines().find_map(|line| line.strip_prefix("shlibs:Depends="))?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// Bytes of all files.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

/// `md5sums`: of everything but the configuration, which an operator changes.
fn sums(root: &Path) -> Result<String> {
    let find = r#"find . -type f ! -path "./$1" -printf '%P\0' | sort -z | xargs -0 md5sum"#;
    tool::text(Command::new("sh").args(["-euc", find, "sh", CONFIG]).current_dir(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::project;

    #[test]
    fn the_control_file_has_every_value() {
        let control = control(&Control {
            version: "0.1.1-1",
            architecture: "amd64",
            maintainer: "Some One <one@example.org>",
            size: 20_480,
            depends: "libc6 (>= 2.34), libgcc-s1 (>= 4.2)",
        });
        for line in [
            "Package: tunless",
            "Version: 0.1.1-1",
            "Architecture: amd64",
            "Maintainer: Some One <one@example.org>",
            "Installed-Size: 20480",
            "Depends: libc6 (>= 2.34), libgcc-s1 (>= 4.2)",
            "Recommends: nftables",
        ] {
            assert!(control.lines().any(|it| it == line), "no `{line}` in\n{control}");
        }
        assert!(!control.contains(['{', '}']), "{control}");
        assert!(control.ends_with('\n'));
    }

    #[test]
    fn the_changelog_is_one_that_dpkg_reads() {
        let version = Version::new("0.1.1", 2).unwrap();
        let date = Timestamp::from_second(1_796_040_006).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("changelog");
        fs::write(&file, changelog(&version, &maintainer(), date).unwrap()).unwrap();
        let mut parse = Command::new("dpkg-parsechangelog");
        let parsed = tool::text(parse.arg("--file").arg(&file).arg("--all")).unwrap();
        for line in ["Source: tunless", "Version: 0.1.1-2", "Timestamp: 1796040006"] {
            assert!(parsed.lines().any(|it| it == line), "no `{line}` in\n{parsed}");
        }
    }

    #[test]
    fn architectures_have_debians_names() {
        assert_eq!(architecture("x86_64").unwrap(), "amd64");
        assert_eq!(architecture("aarch64").unwrap(), "arm64");
        assert!(architecture("sparc64").unwrap_err().to_string().contains("sparc64"));
    }

    #[test]
    fn libraries_are_read_from_what_dpkg_prints() {
        let printed = "shlibs:Depends=libc6 (>= 2.34), libgcc-s1 (>= 4.2)\n";
        assert_eq!(parse_depends(printed).as_deref(), Some("libc6 (>= 2.34), libgcc-s1 (>= 4.2)"));
        assert_eq!(parse_depends("shlibs:Depends=\n"), None);
        assert_eq!(parse_depends(""), None);
    }

    #[test]
    fn sums_leave_the_configuration_out() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), Path::new(CONFIG), b"mode: auto\n", DATA).unwrap();
        put(directory.path(), Path::new("usr/share/a b"), b"text", DATA).unwrap();
        assert_eq!(
            sums(directory.path()).unwrap(),
            "1cb251ec0d568de6a929b520c4aed8d1  usr/share/a b\n"
        );
        assert_eq!(size(directory.path()).unwrap(), 15);
    }

    #[test]
    fn the_package_has_every_file_with_its_owner_and_mode() {
        let tree = Tree::of(Path::new("/bin/true")).unwrap();
        let output = tempfile::tempdir().unwrap();
        let version = Version::new("0.2.0-rc.1", 1).unwrap();
        let package = || build(&tree, &version, output.path(), Compression::Fast).unwrap();
        let path = package();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("tunless_0.2.0~rc.1-1_"), "{name}");
        let ask = |what: &str| tool::text(Command::new("dpkg-deb").arg(what).arg(&path)).unwrap();
        let listing = ask("--contents");
        let files = tree.files().unwrap();
        let ours =
            ["usr/share/doc/tunless/changelog.Debian.gz", "usr/share/lintian/overrides/tunless"];
        for file in files.iter().map(PathBuf::as_path).chain(ours.map(Path::new)) {
            let mode = if file == Path::new(BINARY) { "-rwxr-xr-x" } else { "-rw-r--r--" };
            let ending = format!(" ./{}", file.display());
            let line = listing.lines().find(|line| line.ends_with(&ending));
            let line = line.unwrap_or_else(|| panic!("no {ending} in\n{listing}"));
            assert!(line.starts_with(&format!("{mode} root/root ")), "{line}");
        }
        let directories = listing.lines().filter(|line| line.starts_with('d'));
        assert!(directories.clone().all(|line| line.starts_with("drwxr-xr-x root/root ")));
        assert_eq!(listing.lines().count(), files.len() + ours.len() + directories.count());
        assert!(ask("--info").contains(" Depends: libc6 (>= "), "{}", ask("--info"));

        let once = fs::read(&path).unwrap();
        assert!(once == fs::read(package()).unwrap(), "the same source gives the same package");
    }

    #[test]
    fn the_scripts_are_sound() {
        for (name, _) in SCRIPTS {
            let path = project().join("packaging/scripts").join(name);
            tool::run(Command::new("sh").arg("-n").arg(path)).unwrap();
        }
    }
}
