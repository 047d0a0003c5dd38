//! Where this machine gets its Debian packages from.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// One field per line of output: `LABEL URI`.
const FORMAT: &str = "$(LABEL) $(REPO_URI)";

/// The URI of the machine's mirror of Debian itself: not of its security
/// updates, not of somebody else's packages.
pub fn find() -> Result<String> {
    if let Some(uri) = ask()? {
        return Ok(uri);
    }
    // On a machine that is new, apt has no lists yet and does not know labels.
    let updated = crate::progress::run("apt-get update", Command::new("apt-get").arg("update"))?;
    match ask()? {
        Some(uri) => Ok(uri),
        None if updated.success => bail!(
            "apt has no source of Debian's packages: add one to \
             /etc/apt/sources.list, then run this again"
        ),
        None => bail!("`apt-get update` failed: mend what it says\n  | {}", updated.tail()),
    }
}

fn ask() -> Result<Option<String>> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", FORMAT, "Created-By: Packages"])
        .output()
        .context("`apt-get` does not start: it knows the mirror of Debian's packages")?;
    ensure!(
        output.status.success(),
        "`apt-get indextargets` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(choose(&String::from_utf8_lossy(&output.stdout)))
}

/// The proxy that apt fetches by, if its configuration names one: for programs that fetch
/// by themselves.
pub fn proxy() -> Result<Option<String>> {
    let output = Command::new("apt-config")
        .args(["dump", "--no-empty", "--format", "%v%n", "Acquire::http::Proxy"])
        .output()
        .context("`apt-config` does not start: it knows the proxy of the mirror")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().and_then(http_proxy))
}

/// `DIRECT` is apt's word for none.
fn http_proxy(value: &str) -> Option<String> {
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

fn choose(listing: &str) -> Option<String> {
    listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(label, _)| *label == "Debian")
        .map(|(_, uri)| uri.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_direct_or_empty() {
        assert_eq!(http_proxy("http://proxy.example:3142").unwrap(), "http://proxy.example:3142");
        assert_eq!(http_proxy("DIRECT"), None);
        assert_eq!(http_proxy(""), None);
    }

    #[test]
    fn debian_itself_is_chosen() {
        let listing = "Debian-Security http://mirror.example/debian-security/\n\
                       Somebody http://else.example/\n\
                       Debian http://mirror.example/debian/\n\
                       Debian http://other.example/debian/\n";
        assert_eq!(choose(listing).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(choose("$(LABEL) http://mirror.example/debian/\n"), None);
        assert_eq!(choose(""), None);
    }
}
