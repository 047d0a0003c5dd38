//! The kernels that tunless is tried on.

/// One of Debian's kernels, by the version its release is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 6.1: no TCX links.
    V6_1,
    /// 6.12.
    V6_12,
    /// 7.x, whatever is newest.
    V7,
}

impl Kernel {
    /// Oldest first.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7];

    /// As typed after `--kernel`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7 => "7.x",
        }
    }

    /// The kernel called so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.name() == name)
    }

    /// Whether `uname -r` can come from this kernel.
    #[must_use]
    pub fn is(self, release: &str) -> bool {
        release.starts_with(match self {
            Self::V6_1 => "6.1.",
            Self::V6_12 => "6.12.",
            Self::V7 => "7.",
        })
    }

    /// Returns whether the kernel with this `uname -r` can take an outer header off a merged packet and
    /// leave nothing of the tunnel in it (`BPF_F_ADJ_ROOM_DECAP_IPXIP4`): 7.3 and newer.
    #[must_use]
    pub fn forgets_tunnel(release: &str) -> bool {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        matches!(
            (numbers.next(), numbers.next()),
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (7, 3)
        )
    }

    /// Whether programs attach by TCX links (6.6 and newer).
    #[must_use]
    pub fn has_tcx(self) -> bool {
        match self {
            Self::V6_1 => false,
            Self::V6_12 | Self::V7 => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_releases_belong_together() {
        for kernel in Kernel::ALL {
            assert_eq!(Kernel::from_name(kernel.name()), Some(kernel));
        }
        assert!(Kernel::V6_1.is("6.1.0-50-cloud-amd64"));
        assert!(!Kernel::V6_1.is("6.12.117+deb13-cloud-amd64"));
        assert!(Kernel::V6_12.is("6.12.117+deb13-cloud-amd64"));
        assert!(Kernel::V7.is("7.2.13+deb14-cloud-amd64"));
        assert!(!Kernel::V7.is("6.7.1"));
        assert_eq!(Kernel::from_name("6"), None);
    }

    #[test]
    fn the_newest_kernels_forget_the_tunnel() {
        for release in ["7.3.4+deb13-cloud-amd64", "7.10.0", "8.0.1", "7.3-cloud-amd64"] {
            assert!(Kernel::forgets_tunnel(release), "{release}");
        }
        for release in ["6.12.117+deb13-cloud-amd64", "7.2.13+deb14-cloud-amd64", "7", "x"] {
            assert!(!Kernel::forgets_tunnel(release), "{release}");
        }
    }
}
