//! Version numbers as the package managers compare them.

use anyhow::{Result, ensure};

/// A version of tunless, and which package of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    upstream: String,
    revision: u32,
}

impl Version {
    /// The `revision`th package, from 1, of a version as Cargo writes it (`0.1.1`, `0.2.0-rc.1`).
    ///
    /// # Errors
    /// If it is not three numbers with a pre-release behind them at most, or the revision is 0.
    pub fn new(cargo: &str, revision: u32) -> Result<Self> {
        let (release, pre) = cargo.split_once('-').unwrap_or((cargo, ""));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric());
        ensure!(
            release.split('.').count() == 3
                && release.split('.').all(is_number)
                && (!cargo.contains('-') || pre.split('.').all(is_word)),
            "`{cargo}` is not a version that a package can have: write one like 0.1.1 or 0.2.0-rc.1"
        );
        ensure!(revision > 0, "the first package of a version is revision 1, not 0");
        // `~` sorts before the end of the text: 0.2.0~rc.1 is older than 0.2.0.
        Ok(Self { upstream: cargo.replacen('-', "~", 1), revision })
    }

    /// The first package of the version that this was built from.
    ///
    /// # Errors
    /// If that version is none for a package.
    pub fn this() -> Result<Self> {
        Self::new(env!("CARGO_PKG_VERSION"), 1)
    }

    /// Without the revision, `0.1.1`: what rpm calls the version.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// As Cargo writes it, `0.2.0-rc.1`: what an image is tagged with, as a tag has no tilde.
    #[must_use]
    pub fn tag(&self) -> String {
        self.upstream.replace('~', "-")
    }

    /// Which package of this version: what rpm calls the release.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// With the revision, as in Debian's control file.
    #[must_use]
    pub fn debian(&self) -> String {
        format!("{}-{}", self.upstream, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pre_release_is_older_than_its_release() {
        assert_eq!(Version::new("0.1.1", 1).unwrap().debian(), "0.1.1-1");
        assert_eq!(Version::new("0.1.1", 3).unwrap().debian(), "0.1.1-3");
        assert_eq!(Version::new("0.2.0-rc.1", 1).unwrap().debian(), "0.2.0~rc.1-1");
    }

    #[test]
    fn what_no_package_manager_reads_is_refused() {
        for bad in
            ["", "1", "0.1", "0.1.x", "0.1.1-", "0.1.1-rc_1", "0.1.1+5", "v0.1.1", "0.1.1-a-b"]
        {
            let refusal = Version::new(bad, 1).unwrap_err().to_string();
            assert!(refusal.contains(&format!("`{bad}`")), "{refusal}");
        }
        assert!(Version::new("0.1.1", 0).is_err());
    }

    #[test]
    fn this_version_can_be_packaged() {
        Version::this().unwrap();
    }
}
