//! Programs of this machine that the guest needs, with their libraries.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// What the lab calls, and what a person in the shell may miss.
const PROGRAMS: &[&str] = &[
    "bash",
    "bridge",
    "busybox",
    "conntrack",
    "ethtool",
    "ip",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "mount",
    "nft",
    "nsenter",
    "ping",
    "setpriv",
    "sysctl",
    "tc",
    "tcpdump",
    "unshare",
    "wg",
];

/// Files that a program opens by itself: matches and targets of iptables.
const PLUGINS: &[&str] = &["xtables"];

/// The paths of all programs, as the guest will have them, and their contents'.
pub struct Tools {
    /// Guest path and the file it is made from.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// Finds programs, plugins and the libraries of them all and of `binaries`.
pub fn collect(binaries: &[&Path]) -> Result<Tools> {
    let mut files = Vec::new();
    let mut objects: Vec<PathBuf> = binaries.iter().map(|path| (*path).to_owned()).collect();
    for program in PROGRAMS {
        let found = find(program)?;
        let guest = Path::new("/usr/bin").join(program);
        objects.push(found.clone());
        files.push((guest, found));
    }
    for plugin in PLUGINS {
        for file in plugin_files(plugin)? {
            files.push((file.clone(), file.clone()));
            objects.push(file);
        }
    }
    for library in libraries(&objects)? {
        files.push((merged(&library), library));
    }
    Ok(Tools { files })
}

fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // root's PATH may lack them.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(more)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("no program `{program}` here, which the guest needs"))
}

/// The files in Debian's directory of that name, for our architecture.
fn plugin_files(name: &str) -> Result<Vec<PathBuf>> {
    let directory = Path::new("/usr/lib/x86_64-linux-gnu").join(name);
    let entries = fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}: reinstall iptables", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// All shared libraries that these need, the loader included.
fn libraries(objects: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for object in objects {
        let output = Command::new("ldd").arg(object).output().context("`ldd` does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // What is linked statically needs none; ldd calls that an error.
        let found = parse_ldd(&text).with_context(|| object.display().to_string())?;
        all.extend(found);
    }
    Ok(all)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld… (0x…)`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        ensure!(!line.ends_with("=> not found"), "a library is missing: {line}");
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if let Some((path, _)) = path.split_once(" (0x")
            && path.starts_with('/')
        {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// `/lib/x` is `/usr/lib/x` in the guest, as in Debian.
pub fn merged(path: &Path) -> PathBuf {
    let usr = ["/lib", "/lib64", "/bin", "/sbin"].iter().any(|start| path.starts_with(start));
    if usr { Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path)) } else { path.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text).unwrap(),
            ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(parse_ldd("\tnot a dynamic executable\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn the_guest_has_one_tree_below_usr() {
        assert_eq!(merged(Path::new("/lib64/ld.so")), Path::new("/usr/lib64/ld.so"));
        assert_eq!(merged(Path::new("/usr/lib/x")), Path::new("/usr/lib/x"));
        assert_eq!(merged(Path::new("/opt/lib/x")), Path::new("/opt/lib/x"));
    }
}
