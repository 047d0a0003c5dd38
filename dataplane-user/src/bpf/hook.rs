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
            Self::EncapPod | Self::DecapTc | Self::ShadowIn => "tc ingress",
            Self::EncapHost | Self::GrantDecap | Self::ShadowOut => "tc egress",
            Self::DecapXdp => "xdp",
        }
    }

    fn tc(self) -> Option<TcAttachType> {
        match self {
            Self::EncapPod | Self::DecapTc | Self::ShadowIn => Some(TcAttachType::Ingress),
            Self::EncapHost | Self::GrantDecap | Self::ShadowOut => Some(TcAttachType::Egress),
            Self::DecapXdp => None,
        }
    }
}

/// A [`Program`] in JSON: by its name.
pub mod by_name {
    use dataplane_common::Program;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    /// Writes the name.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(program: &Program, serializer: S) -> Result<S::Ok, S::Error> {
        program.as_str().serialize(serializer)
    }

    /// Reads a name.
    ///
    /// # Errors
    /// If no program has it, and as the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Program, D::Error> {
        let name = String::deserialize(deserializer)?;
        let program = Program::ALL.into_iter().find(|program| program.as_str() == name);
        program.ok_or_else(|| D::Error::custom(format!("no program of tunless is called {name}")))
    }
}
