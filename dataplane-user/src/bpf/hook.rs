//! Where each program is attached.

use aya::programs::TcAttachType;
use dataplane_common::Program;

/// The hook of a program.
pub trait Hook {
    /// Returns the hook's name, for people.
    fn place(self) -> &'static str;

    /// Returns the direction on TC; `None` for XDP.
    fn tc(self) -> Option<TcAttachType>;
}

impl Hook for Program {
    fn place(self) -> &'static str {
        match self {
            Self::EncapPod | Self::DecapTc => "tc ingress",
            Self::EncapHost | Self::GrantDecap => "tc egress",
            Self::DecapXdp => "xdp",
        }
    }

    fn tc(self) -> Option<TcAttachType> {
        match self {
            Self::EncapPod | Self::DecapTc => Some(TcAttachType::Ingress),
            Self::EncapHost | Self::GrantDecap => Some(TcAttachType::Egress),
            Self::DecapXdp => None,
        }
    }
}
