//! What `mode: shadow` finds out about packets that tunl0 carries.
//!
//! The programs `shadow_out` and `shadow_in` change nothing. Each packet gets one [`Finding`]; what the
//! programs that serve would have made of it is counted by [`crate::Reason`] beside that.

use crate::layout::plain;

/// What a finding says about switching tunless on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Not about a tunnel packet of this node, or not comparable.
    Aside,
    /// On the wire nothing would change.
    Same,
    /// tunl0 would go on to carry it.
    Left,
    /// tunl0 takes it, and tunless would drop it.
    Dropped,
    /// On the wire something would change, or the peer's tunnel is not like tunl0.
    Different,
    /// Of one packet in [`SAMPLE`]: whether it has a flow that may be leased.
    Sample,
}

/// One packet in so many is asked whether the fast path would have taken it. A power of two.
pub const SAMPLE: u32 = 16;
/// How many flows of sampled packets are kept until user space fetches them.
pub const MAX_SAMPLES: usize = 16_384;
/// How many hops there may be between two nodes before a peer's TTL counts as a value of its own.
pub const MOST_HOPS: u8 = 16;

macro_rules! findings {
    ($($variant:ident $name:literal $class:ident $caption:literal)*) => {
        /// What was found out about one packet. The number is the index into `FINDINGS`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Finding {
            $(#[doc = $caption] $variant,)*
        }

        impl Finding {
            /// Every finding.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// How many there are: the size of `FINDINGS` and of `DIFFERENCES`.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns its name in JSON; it never changes its meaning.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns one sentence for a person.
            #[must_use]
            pub const fn caption(self) -> &'static str {
                match self { $(Self::$variant => $caption,)* }
            }

            /// Returns what it says about switching tunless on.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }
        }
    };
}

findings! {
    OutAside "out_aside" Aside "sent, and not a tunnel packet of this node"
    OutUnreadable "out_unreadable" Aside "sent, with headers that are not in one piece: not compared"
    OutSame "out_same" Same "sent by tunl0 as tunless would have sent it"
    OutLeft "out_left" Left "sent by tunl0, and tunless would have left it to tunl0"
    OutKnown "out_known" Same "sent by tunl0 without DF around a packet without DF, or with ECT(0) around CE: known differences (ARCHITECTURE.md), which no receiver minds"
    OutNode "out_node" Different "sent by tunl0 to another node than tunless would have sent it to"
    OutLink "out_link" Different "sent by tunl0 out of another interface than tunless would have used"
    OutNextHop "out_next_hop" Different "sent by tunl0 to another next hop (MAC address)"
    OutShape "out_shape" Different "sent by tunl0 in fragments, or with options in the outer header"
    OutTos "out_tos" Different "sent by tunl0 with another TOS byte in the outer header"
    OutTtl "out_ttl" Different "sent by tunl0 with another TTL in the outer header"
    OutDontFragment "out_dont_fragment" Different "sent by tunl0 without DF in the outer header, around a packet with DF"
    OutLength "out_length" Different "sent by tunl0 with another length in the outer header"
    InAside "in_aside" Aside "received, and not a tunnel packet"
    InUnreadable "in_unreadable" Aside "received, with headers that are not in one piece: not compared"
    InSame "in_same" Same "received, and tunless would have unwrapped it as tunl0 does"
    InLeft "in_left" Left "received, and tunless would have left it to the kernel"
    InDropped "in_dropped" Dropped "received, and tunless would have dropped it"
    InTtl "in_ttl" Different "received, with an outer TTL that is not the inner one less the hops between the nodes"
    SampleFlow "sample_flow" Sample "of one packet in 16: TCP or UDP that may be leased"
    SampleControl "sample_control" Sample "of one packet in 16: TCP SYN, FIN or RST, which takes the stack path"
    SampleNoFlow "sample_no_flow" Sample "of one packet in 16: neither TCP nor UDP, a fragment, or with options"
}

plain! {
    /// The last packet with one finding of [`Class::Different`] or [`Class::Dropped`].
    pub struct Difference {
        /// When, `CLOCK_MONOTONIC`, nanoseconds; 0: there was none.
        pub at: u64,
        /// The outer header as it was, as it lay in the packet.
        pub theirs: [u32; 5],
        /// As tunless would have written it; of what was received the same as `theirs`.
        pub ours: [u32; 5],
        /// The inner header, likewise.
        pub inner: [u32; 5],
        /// The interface.
        pub ifindex: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_and_names_say_the_direction() {
        for (index, finding) in Finding::ALL.iter().enumerate() {
            assert_eq!(*finding as usize, index);
            let name = finding.as_str();
            let is_sample = finding.class() == Class::Sample;
            assert!(is_sample == name.starts_with("sample_"), "{name}");
            assert!(is_sample || name.starts_with("out_") || name.starts_with("in_"), "{name}");
        }
    }
}
