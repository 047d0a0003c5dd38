//! The two directions of a packet through a node.

/// Which way a packet goes.
///
/// The numbers are those in [`crate::Flow::direction`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Pod → wire.
    Encap = 0,
    /// Wire → pod.
    Decap = 1,
}

impl Direction {
    /// Returns the direction as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encap => "encap",
            Self::Decap => "decap",
        }
    }
}
