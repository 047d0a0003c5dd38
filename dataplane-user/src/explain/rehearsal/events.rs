//! What the kernel tells of a packet that is traced (`enum nft_trace_attributes`,
//! `linux/netfilter/nf_tables.h`).

use std::{io, net::SocketAddrV4, time::Duration};

use anyhow::{Context as _, Result};
use etherparse::Ipv4HeaderSlice;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use socket2::SockRef;

use super::{Fate, Rehearsed, RuleMet, Texts, host_rules::run};
use crate::kernel::Attributes;

/// `NFNLGRP_NFTRACE`.
const GROUP: u32 = 9;
/// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_TRACE`.
const TRACE: u16 = (10 << 8) | 17;
/// `struct nlmsghdr`, then `struct nfgenmsg`; bytes.
const HEADERS: usize = 16 + 4;
/// Where the latter has the family of the table.
const FAMILY: usize = 16;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFTA_TRACE_TABLE` and those behind it.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const TYPE: u16 = 4;
const VERDICT: u16 = 5;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const POLICY: u16 = 16;
/// `NFT_TRACETYPE_POLICY`, `_RULE`.
const BY_POLICY: u32 = 1;
const BY_RULE: u32 = 3;
/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// Our own table there: its first chain begins the trace, its last one shows what comes out.
const OWN: &str = "tunless-rehearsal";
/// How long a packet may take from one rule to the next. All of them are one function call of the kernel's.
const PATIENCE: Duration = Duration::from_secs(2);

/// Hears what the kernel tells, in this thread's namespace.
pub struct Tracer(Socket);

impl Tracer {
    /// Begins: every IPv4 packet that comes in from now on is traced.
    ///
    /// # Errors
    /// If the kernel or nft refuses.
    pub fn begin() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER).context("a socket for traces")?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(GROUP).context("the kernel's traces of nftables")?;
        socket.set_rx_buf_sz(4 << 20)?;
        SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
        let chains = format!(
            "table ip {OWN} {{\n\
             chain begin {{\ntype filter hook prerouting priority -500\nmeta nftrace set 1\n}}\n\
             chain end {{\ntype filter hook postrouting priority 500\ncounter\n}}\n}}\n"
        );
        run("nft", &["-f", "-"], Some(&chains))?;
        Ok(Self(socket))
    }

    /// Follows the first packet to its end.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn watch(&self, texts: &Texts) -> Result<Rehearsed> {
        let mut rules = Vec::new();
        loop {
            let bytes = match self.0.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Rehearsed { rules, fate: Fate::Lost });
                }
                Err(error) => return Err(error).context("the kernel's traces"),
            };
            for event in events(&bytes) {
                rules.extend(rule_met(&event, texts));
                if let Some(fate) = fate(&event) {
                    return Ok(Rehearsed { rules, fate });
                }
            }
        }
    }
}

/// What the kernel tells of one step.
struct Event {
    /// The table's family.
    family: u8,
    attributes: Attributes,
}

/// The events of a datagram.
fn events(bytes: &[u8]) -> Vec<Event> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(head) = rest.get(..HEADERS) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let Some(body) = rest.get(HEADERS..length) else { break };
        if kind == TRACE {
            found.push(Event { family: head[FAMILY], attributes: Attributes::read(body) });
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// What became of the packet, if this is its last event.
fn fate(event: &Event) -> Option<Fate> {
    let event = &event.attributes;
    if event.text(TABLE) == Some(OWN) {
        if event.text(CHAIN) != Some("end") {
            return None;
        }
        let header = |number| event.get(number).unwrap_or_default();
        let (ip, transport) = (header(NETWORK_HEADER), header(TRANSPORT_HEADER));
        let (from, to) = ends(&[ip, transport].concat())?;
        return Some(Fate::Left(from, to));
    }
    let code = match event.number(TYPE)? {
        BY_RULE => event.inside(VERDICT).number(VERDICT_CODE)?,
        BY_POLICY => event.number(POLICY)?,
        _ => return None,
    };
    // Of a queue the upper half is its number.
    match code & 0xffff {
        _ if code.cast_signed() < 0 => None,
        0 => Some(Fate::Dropped),
        3 => Some(Fate::Queued),
        _ => None,
    }
}

/// The rule that an event is about; policies that let packets pass are none.
fn rule_met(event: &Event, texts: &Texts) -> Option<RuleMet> {
    let family = if event.family == INET { "inet" } else { "ip" };
    let event = &event.attributes;
    let (name, chain) = (event.text(TABLE)?, event.text(CHAIN)?.to_owned());
    if name == OWN {
        return None;
    }
    let table = format!("{family} {name}");
    let kind = event.number(TYPE)?;
    if kind == BY_POLICY {
        let rule = "policy".to_owned();
        let is_drop = event.number(POLICY)? == 0;
        return is_drop.then(|| RuleMet { table, chain, rule, verdict: "drop".to_owned() });
    }
    (kind == BY_RULE).then_some(())?;
    let handle = event.get(RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)?;
    let rule = texts.of(&table, &chain, handle);
    let verdict = verdict(&event.inside(VERDICT))?;
    Some(RuleMet { table, chain, rule, verdict })
}

/// A verdict in nft's words (`enum nft_verdicts`, `linux/netfilter.h`).
fn verdict(attributes: &Attributes) -> Option<String> {
    let code = attributes.number(VERDICT_CODE)?.cast_signed();
    let to = attributes.text(VERDICT_CHAIN).unwrap_or_default();
    Some(match code {
        -3 => format!("jump {to}"),
        -4 => format!("goto {to}"),
        -5 => "return".to_owned(),
        ..0 => "continue".to_owned(),
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        2 => "stolen".to_owned(),
        _ => "queue".to_owned(),
    })
}

/// Source and destination of a packet, with ports where it has some, else 0.
pub fn ends(packet: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let behind = packet.get(ip.slice().len()..).unwrap_or_default();
    let port = |at: usize| Some(u16::from_be_bytes(behind.get(at..at + 2)?.try_into().ok()?));
    let has_ports = [6, 17].contains(&ip.protocol().0);
    let port = |at| has_ports.then(|| port(at)).flatten().unwrap_or_default();
    let end = |address, at| SocketAddrV4::new(address, port(at));
    Some((end(ip.source_addr(), 0), end(ip.destination_addr(), 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let length = (4 + value.len()) as u16;
        let mut bytes = [length.to_ne_bytes(), number.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let length = (HEADERS + body.len()) as u32;
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(body);
        bytes
    }

    fn by_rule(table: &str, chain: &str, verdict: &[Vec<u8>]) -> Vec<u8> {
        let text = |text: &str| format!("{text}\0").into_bytes();
        message(
            TRACE,
            2,
            &[
                attribute(TABLE, &text(table)),
                attribute(CHAIN, &text(chain)),
                attribute(RULE_HANDLE, &7_u64.to_be_bytes()),
                attribute(TYPE, &BY_RULE.to_be_bytes()),
                attribute(VERDICT, &verdict.concat()),
            ],
        )
    }

    fn code(code: i32) -> Vec<u8> {
        attribute(VERDICT_CODE, &code.to_be_bytes())
    }

    #[test]
    fn rules_and_verdicts_are_read() {
        let texts = Texts::default();
        let to = attribute(VERDICT_CHAIN, b"cali-FORWARD\0");
        for (verdict, said, fate_) in [
            (vec![code(-3), to.clone()], "jump cali-FORWARD", None),
            (vec![code(-4), to], "goto cali-FORWARD", None),
            (vec![code(-5)], "return", None),
            (vec![code(-1)], "continue", None),
            (vec![code(0)], "drop", Some(Fate::Dropped)),
            (vec![code(1)], "accept", None),
            (vec![code(3 | 7 << 16)], "queue", Some(Fate::Queued)),
        ] {
            let bytes = [message(1, 2, &[]), by_rule("filter", "FORWARD", &verdict)].concat();
            let [event] = &events(&bytes)[..] else { panic!("one event") };
            let met = rule_met(event, &texts).unwrap();
            assert_eq!((met.table.as_str(), met.rule.as_str()), ("ip filter", "rule 7"));
            assert_eq!((met.verdict.as_str(), fate(event)), (said, fate_));
        }
        let own = events(&by_rule(OWN, "begin", &[code(-1)]));
        assert_eq!((rule_met(&own[0], &texts), fate(&own[0])), (None, None));
        assert_eq!(events(&[1; 30]).len(), 0, "what is cut off is no event");
    }

    #[test]
    fn a_policy_that_drops_is_the_last_rule() {
        for (policy, expected) in [(0_u32, Some(Fate::Dropped)), (1, None)] {
            let bytes = message(
                TRACE,
                INET,
                &[
                    attribute(TABLE, b"mine\0"),
                    attribute(CHAIN, b"forward\0"),
                    attribute(TYPE, &BY_POLICY.to_be_bytes()),
                    attribute(POLICY, &policy.to_be_bytes()),
                ],
            );
            let [event] = &events(&bytes)[..] else { panic!("one event") };
            assert_eq!(fate(event), expected);
            let met = rule_met(event, &Texts::default());
            assert_eq!(met.map(|met| met.table), expected.map(|_| "inet mine".to_owned()));
        }
    }

    #[test]
    fn the_end_shows_where_the_packet_goes() {
        let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 63, 17, 0, 0, 10, 20, 1, 7, 10, 20, 2, 8];
        let udp = [0x9c, 0x40, 0x1b, 0x58, 0, 8, 0, 0];
        let bytes = message(
            TRACE,
            2,
            &[
                attribute(TABLE, format!("{OWN}\0").as_bytes()),
                attribute(CHAIN, b"end\0"),
                attribute(TYPE, &BY_RULE.to_be_bytes()),
                attribute(NETWORK_HEADER, &ip),
                attribute(TRANSPORT_HEADER, &udp),
            ],
        );
        let left = ("10.20.1.7:40000".parse().unwrap(), "10.20.2.8:7000".parse().unwrap());
        assert_eq!(fate(&events(&bytes)[0]), Some(Fate::Left(left.0, left.1)));
        ip.extend(udp);
        assert_eq!(ends(&ip), Some(left));
        assert_eq!(ends(&ip[..10]), None);
    }
}
