//! In what tunless differs from tunl0, on purpose: the only list there is.
//!
//! Each entry must be *seen* in every mode it belongs to, or it is stale, and
//! what differs otherwise fails. ARCHITECTURE.md holds the same table, and a
//! test of this file compares the two.

use super::node::{Conntrack, Mode, Setup};

macro_rules! differences {
    ($($variant:ident $modes:ident $what:literal $tunl0:literal $tunless:literal $why:literal)*) => {
        /// What tunless does otherwise.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Difference {
            $(#[doc = $what] $variant,)*
        }

        impl Difference {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Where it is to be seen.
            #[must_use]
            pub const fn modes(self) -> Modes {
                match self { $(Self::$variant => Modes::$modes,)* }
            }

            /// Its row in ARCHITECTURE.md.
            #[must_use]
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row { what: $what, tunl0: $tunl0, tunless: $tunless, why: $why },)*
                }
            }
        }
    };
}

/// The words of a row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Field or event.
    pub what: &'static str,
    /// What tunl0 does.
    pub tunl0: &'static str,
    /// What tunless does.
    pub tunless: &'static str,
    /// Why.
    pub why: &'static str,
}

/// In which modes there is a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Modes {
    /// In both.
    Both,
    /// Where tunl0 is not there to take what we leave.
    Replace,
    /// There, and where conntrack puts fragments together and cuts them again.
    ReplaceConntrack,
    /// Where tunl0 is there.
    Accelerate,
    /// In both, where packets skip the stack.
    FastPath,
}

impl Modes {
    /// Whether this run of tunless is one of them.
    #[must_use]
    pub fn include(self, setup: Setup) -> bool {
        let is_replace = setup.mode() == Some(Mode::Replace);
        match self {
            Self::Both => true,
            Self::Replace => is_replace,
            Self::ReplaceConntrack => is_replace && setup.conntrack == Conntrack::On,
            Self::Accelerate => !is_replace,
            Self::FastPath => setup.has_fast_path(),
        }
    }

    #[cfg(test)]
    fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Replace => "`replace`",
            Self::ReplaceConntrack => "`replace`, with conntrack",
            Self::Accelerate => "`accelerate`",
            Self::FastPath => "both, fast path",
        }
    }
}

differences! {
    OuterDf Both "outer DF" "as the inner" "always set"
        "RFC 2003 §3.1 allows it, §5.1 wants it: what does not fit is fragmented before"
    OuterId Both "outer IP ID" "a counter" "0"
        "RFC 6864 §4.1: with DF it means nothing"
    OuterCe Both "outer ECN of inner CE" "ECT(0)" "CE"
        "RFC 6040 §4.1, normal mode"
    FragmentDf ReplaceConntrack "inner DF of fragments that had it" "kept" "cleared"
        "the kernel's `ip_do_fragment` keeps it only where it has to copy; with tunl0 it has to"
    Padding FastPath "bytes behind the inner packet" "cut off" "go into the pod, whose kernel cuts them off"
        "a helper call more, for nothing"
    InnerTtlZero Both "inner TTL 0 from the wire" "Time Exceeded to the sender" "dropped"
        "RFC 2003 §3.1: must discard"
    ForgedSource Both "inner source of another node's pods" "delivered" "dropped"
        "the source check; `spoof: stack` delivers"
    UnknownNode Replace "outer source that is no known node" "delivered" "not unwrapped"
        "RFC 2003 §6.2: only from whom we trust"
    OuterOptions Both "outer header with options" "unwrapped" "not unwrapped"
        "no tunnel writes any"
    OuterFragment Replace "fragments of an outer packet" "reassembled, unwrapped" "not unwrapped"
        "programs see fragments only; with DF there are none"
    ShortFragment Both "outer fragments that split the inner header" "reassembled, unwrapped" "not unwrapped"
        "no program could judge the inner source (RFC 1858)"
    NestedTunnel Replace "IPIP or 6in4 inside" "unwrapped once" "not unwrapped"
        "the inner source would prove nothing"
    PortUnreachable Replace "what the kernel gets wrapped (those above, and broken packets)" "unwrapped, or dropped" "dropped; Port Unreachable to the outer source where the module ipip is loaded"
        "`tunnel4.c` finds no tunnel; tunl0 as a peer ignores it (`ipip_err`)"
    Redirect Replace "inner destination behind yet another node" "forwarded" "forwarded, with an ICMP Redirect to the source"
        "our kernel routes have no next hop, so the source counts as on-link; no pod can obey it"
    Tunl0Counters Accelerate "tunl0's own counters" "count" "stay 0 for what we take"
        "`tunless counters list` counts"
    Tunl0Captures Accelerate "capture on tunl0" "both directions" "nothing outgoing; of what comes in, the stack path only"
        "packets turn off before tunl0, or enter behind it"
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs};

    use super::*;

    /// The table is the one in ARCHITECTURE.md; `BLESS=1 cargo test` writes it anew.
    #[test]
    fn the_document_has_the_same_table() {
        let begin = "<!-- from tests/vm/src/suites/parity/difference.rs -->\n";
        let end = "<!-- end -->\n";
        let mut table =
            "| what | tunl0 | tunless | mode | why |\n|---|---|---|---|---|\n".to_owned();
        for difference in Difference::ALL {
            let Row { what, tunl0, tunless, why } = difference.row();
            let modes = difference.modes().as_str();
            writeln!(table, "| {what} | {tunl0} | {tunless} | {modes} | {why} |").unwrap();
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
        let text = fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(begin).expect("where the table begins");
        let (written, after) = rest.split_once(end).expect("where the table ends");
        if std::env::var_os("BLESS").is_some() {
            fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        } else {
            assert_eq!(
                written, table,
                "ARCHITECTURE.md is stale: run `BLESS=1 cargo test -p tunless-vm`"
            );
        }
    }
}
