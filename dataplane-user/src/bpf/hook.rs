//! The five places where a program of ours sits.

use aya::programs::TcAttachType;
use serde::{Deserialize, Serialize};

/// A program and the kind of hook it belongs on.
///
/// In the order of attachment, and backwards that of removal: the wire's side
/// first, so that a packet a peer answers at once finds its way in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// `decap_tc` on an underlay interface.
    DecapTc,
    /// `decap_xdp` on an underlay interface; `decap_tc` delivers for it.
    DecapXdp,
    /// `encap_host` on the tunnel device.
    EncapHost,
    /// `grant_decap` on a pod's interface.
    GrantDecap,
    /// `encap_pod` on a pod's interface.
    EncapPod,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::DecapTc, Self::DecapXdp, Self::EncapHost, Self::GrantDecap, Self::EncapPod];

    /// The program's name in the object and in pins.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::EncapPod => "encap_pod",
            Self::EncapHost => "encap_host",
            Self::DecapTc => "decap_tc",
            Self::DecapXdp => "decap_xdp",
            Self::GrantDecap => "grant_decap",
        }
    }

    /// The hook, for people.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::EncapPod | Self::DecapTc => "tc ingress",
            Self::EncapHost | Self::GrantDecap => "tc egress",
            Self::DecapXdp => "xdp",
        }
    }

    /// The direction on TC; `None` for XDP.
    #[must_use]
    pub const fn tc(self) -> Option<TcAttachType> {
        match self {
            Self::EncapPod | Self::DecapTc => Some(TcAttachType::Ingress),
            Self::EncapHost | Self::GrantDecap => Some(TcAttachType::Egress),
            Self::DecapXdp => None,
        }
    }
}
