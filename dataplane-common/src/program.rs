//! The programs of the eBPF object: five that serve, two that only watch.

use core::fmt;

use crate::Direction;

/// A program, and so the hook it belongs on.
///
/// Declared, and ordered, from the wire to the pods: user space attaches in this
/// order and removes in the reverse one, so that what a peer answers at once
/// already finds its way in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Program {
    /// TC ingress of an underlay interface: checks, decapsulates and delivers.
    DecapTc,
    /// XDP of an underlay interface: checks and decapsulates; [`Self::DecapTc`] delivers.
    DecapXdp,
    /// TC egress of the tunnel device: encapsulates what comes out of the stack.
    EncapHost,
    /// TC egress of a pod's interface: grants and revokes leases.
    GrantDecap,
    /// TC ingress of a pod's interface: encapsulates on the fast path.
    EncapPod,
    /// TC ingress of an underlay interface, in `mode: shadow`: looks at what tunl0 receives.
    ShadowIn,
    /// TC egress of an underlay interface, in `mode: shadow`: looks at what tunl0 sends.
    ShadowOut,
}

impl Program {
    /// Those that carry packets, in order.
    pub const SERVING: [Self; 5] =
        [Self::DecapTc, Self::DecapXdp, Self::EncapHost, Self::GrantDecap, Self::EncapPod];
    /// Those that only look, in order.
    pub const SHADOW: [Self; 2] = [Self::ShadowIn, Self::ShadowOut];
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::DecapTc,
        Self::DecapXdp,
        Self::EncapHost,
        Self::GrantDecap,
        Self::EncapPod,
        Self::ShadowIn,
        Self::ShadowOut,
    ];

    /// Returns its name in the object, in pins, tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DecapTc => "decap_tc",
            Self::DecapXdp => "decap_xdp",
            Self::EncapHost => "encap_host",
            Self::GrantDecap => "grant_decap",
            Self::EncapPod => "encap_pod",
            Self::ShadowIn => "shadow_in",
            Self::ShadowOut => "shadow_out",
        }
    }

    /// Returns where it is attached, for people.
    #[must_use]
    pub const fn hook(self) -> &'static str {
        match self {
            Self::DecapTc | Self::ShadowIn => "underlay, tc ingress",
            Self::DecapXdp => "underlay, xdp",
            Self::EncapHost => "tunnel device, tc egress",
            Self::GrantDecap => "pod, tc egress",
            Self::EncapPod => "pod, tc ingress",
            Self::ShadowOut => "underlay, tc egress",
        }
    }

    /// Returns the program that has this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.as_str() == name)
    }

    /// Whether it only looks, and changes no packet.
    #[must_use]
    pub const fn is_shadow(self) -> bool {
        matches!(self, Self::ShadowIn | Self::ShadowOut)
    }

    /// Returns the direction of the packets it sees.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            Self::EncapPod | Self::EncapHost | Self::ShadowOut => Direction::Encap,
            Self::DecapTc | Self::DecapXdp | Self::GrantDecap | Self::ShadowIn => Direction::Decap,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_programs() {
        for program in Program::ALL {
            assert_eq!(Program::from_name(program.as_str()), Some(program));
        }
        assert_eq!(Program::from_name("decap"), None);
    }

    #[test]
    fn all_are_in_order() {
        assert!(Program::ALL.is_sorted());
        let all = [&Program::SERVING[..], &Program::SHADOW].concat();
        assert_eq!(all, Program::ALL);
        assert!(Program::SERVING.iter().all(|program| !program.is_shadow()));
        assert!(Program::SHADOW.iter().all(|program| program.is_shadow()));
    }
}
