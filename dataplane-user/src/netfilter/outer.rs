//! Rules of the host about encapsulated packets. Those that tunless takes in or sends pass by them.
//!
//! Looked at are the chains that the kernel itself calls for packets to and from this host; a rule
//! counts if it names protocol 4 or a node and does more than accept. What a set or another chain
//! decides is not followed, and rules of iptables-legacy are not seen.

use std::{collections::BTreeSet, net::Ipv4Addr};

use dataplane_common::ipv4::PROTOCOL_IPIP;

use super::rules::TABLE;
use crate::kernel::{Attributes, BaseChain, Expression, Rule};

/// Of `enum nf_inet_hooks`: packets that are forwarded are not encapsulated ones of ours.
const NF_INET_FORWARD: u32 = 2;
/// `NFT_META_L4PROTO`, `NFTA_META_KEY`.
const META_L4PROTO: u32 = 16;
const META_KEY: u16 = 2;
/// `NFTA_PAYLOAD_BASE`, `_OFFSET` (bytes), `_LEN` (bytes); `NFT_PAYLOAD_NETWORK_HEADER`.
const PAYLOAD: [u16; 3] = [2, 3, 4];
const NETWORK_HEADER: u32 = 1;
/// `NFTA_CMP_OP`, `NFTA_CMP_DATA`, `NFTA_DATA_VALUE`; `NFT_CMP_EQ`.
const CMP_OPERATION: u16 = 2;
const CMP_DATA: u16 = 3;
const DATA_VALUE: u16 = 1;
const EQUAL: u32 = 0;
/// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`; `NF_ACCEPT`.
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const ACCEPT: u32 = 1;
/// Expressions that do something with the packet, whatever they are told.
const ACTIONS: [&str; 6] = ["target", "reject", "queue", "notrack", "limit", "quota"];

/// A chain with rules about encapsulated packets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OuterRules {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// How many there are.
    pub rules: usize,
}

/// Whether encapsulated packets would pass the chain, if tunless did not take them.
#[must_use]
pub fn sees_outer_packets(chain: &BaseChain) -> bool {
    chain.table != TABLE && chain.hook <= 4 && chain.hook != NF_INET_FORWARD
}

/// What a step of a rule has read of a packet.
#[derive(Clone, Copy)]
enum Read {
    Protocol,
    Address,
    Other,
}

/// Whether a rule is about encapsulated packets between these nodes and us, and changes their fate.
#[must_use]
pub fn concerns(rule: &Rule, nodes: &BTreeSet<Ipv4Addr>) -> bool {
    let mut read = Read::Other;
    let (mut is_about, mut acts) = (false, false);
    for Expression { name, data } in rule {
        match name.as_str() {
            "meta" if data.number(META_KEY) == Some(META_L4PROTO) => read = Read::Protocol,
            "payload" => read = field(data),
            "cmp" => {
                match (read, data.number(CMP_OPERATION), data.inside(CMP_DATA).get(DATA_VALUE)) {
                    (Read::Protocol, Some(EQUAL), Some([protocol, ..])) => {
                        // A rule about another protocol of a node is none about this one.
                        if *protocol != PROTOCOL_IPIP {
                            return false;
                        }
                        is_about = true;
                    }
                    (Read::Address, Some(EQUAL), Some(value)) => {
                        let address = <[u8; 4]>::try_from(value).map(Ipv4Addr::from);
                        is_about |= address.is_ok_and(|address| nodes.contains(&address));
                    }
                    _ => {}
                }
            }
            "immediate" => {
                let verdict = data.inside(IMMEDIATE_DATA).inside(DATA_VERDICT).number(VERDICT_CODE);
                acts |= verdict.is_some_and(|code| code != ACCEPT);
            }
            // Masked, or from elsewhere.
            "bitwise" | "meta" | "ct" | "fib" | "rt" | "socket" => read = Read::Other,
            other => acts |= ACTIONS.contains(&other),
        }
    }
    is_about && acts
}

/// Which field of the IPv4 header a `payload` reads (RFC 791 §3.1).
fn field(data: &Attributes) -> Read {
    match PAYLOAD.map(|number| data.number(number)) {
        [Some(NETWORK_HEADER), Some(9), Some(1)] => Read::Protocol,
        [Some(NETWORK_HEADER), Some(12 | 16), Some(4)] => Read::Address,
        _ => Read::Other,
    }
}
