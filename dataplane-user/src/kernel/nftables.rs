//! Reading rules of nftables, those that iptables-nft makes included (`linux/netfilter/nf_tables.h`).
//!
//! One chain at a time: a large cluster has a hundred thousand rules, and a few chains matter.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use rtnetlink::{
    proto::{ConnectionHandle, new_connection},
    sys::{SocketAddr, protocols::NETLINK_NETFILTER},
};

/// `NFNL_SUBSYS_NFTABLES`, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_GETCHAIN`.
const GET_CHAIN: u16 = SUBSYSTEM | 4;
/// `NFTA_CHAIN_TABLE`.
const CHAIN_TABLE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME: u16 = 3;
/// `NFTA_CHAIN_HOOK`.
const CHAIN_HOOK: u16 = 4;
/// `NFTA_CHAIN_POLICY`; `NF_DROP`.
const CHAIN_POLICY: u16 = 5;
const DROP: u32 = 0;
/// `NFTA_CHAIN_TYPE`.
const CHAIN_TYPE: u16 = 7;
/// `NFTA_HOOK_HOOKNUM`.
const HOOK_NUMBER: u16 = 1;
/// `NFPROTO_INET`: rules about IPv4 and IPv6.
const FAMILY_INET: i32 = 1;
/// `NFT_MSG_GETRULE`.
const GET_RULE: u16 = SUBSYSTEM | 7;
/// `NFTA_RULE_TABLE`.
const RULE_TABLE: u16 = 1;
/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN: u16 = 2;
/// `NFTA_RULE_EXPRESSIONS`.
const RULE_EXPRESSIONS: u16 = 4;
/// `NFT_MSG_GETSETELEM`.
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// `NFTA_SET_ELEM_LIST_TABLE`, `_SET`, `_ELEMENTS`.
const ELEMENTS: [u16; 3] = [1, 2, 3];
/// `NFT_MSG_GETOBJ`.
const GET_OBJECT: u16 = SUBSYSTEM | 19;
/// `NFTA_OBJ_TABLE`, `NFTA_OBJ_NAME`, `NFTA_OBJ_TYPE`.
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
/// `NFT_OBJECT_CT_TIMEOUT`.
const CT_TIMEOUT: u32 = 7;
/// `NFT_MSG_GETFLOWTABLE`.
const GET_FLOWTABLE: u16 = SUBSYSTEM | 23;
/// `NFTA_FLOWTABLE_TABLE`.
const FLOWTABLE_TABLE: u16 = 1;
/// `NFTA_FLOWTABLE_NAME`.
const FLOWTABLE_NAME: u16 = 2;
/// `NFTA_FLOWTABLE_HOOK`.
const FLOWTABLE_HOOK: u16 = 3;
/// `NFTA_FLOWTABLE_HOOK_DEVS`.
const HOOK_DEVICES: u16 = 3;
/// `NFTA_EXPR_NAME`.
const EXPRESSION_NAME: u16 = 1;
/// `NFTA_EXPR_DATA`.
const EXPRESSION_DATA: u16 = 2;
/// `struct nfgenmsg`: family, version, resource; bytes.
const GENERIC_HEADER: usize = 4;

/// Netlink attributes by their number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes(pub BTreeMap<u16, Vec<u8>>);

impl Attributes {
    /// Reads attributes, as far as they are well-formed.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let attributes = NlasIterator::new(bytes).map_while(Result::ok);
        Self(attributes.map(|it| (it.kind(), it.value().to_vec())).collect())
    }

    /// Returns an attribute's value.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<&[u8]> {
        self.0.get(&number).map(Vec::as_slice)
    }

    /// Returns the attributes inside an attribute; none if there is no such attribute.
    #[must_use]
    pub fn inside(&self, number: u16) -> Self {
        self.get(number).map(Self::read).unwrap_or_default()
    }

    /// Returns a number in network byte order.
    #[must_use]
    pub fn number(&self, number: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(number)?.try_into().ok()?))
    }

    /// Returns a text that ends with a zero.
    #[must_use]
    pub fn text(&self, number: u16) -> Option<&str> {
        std::str::from_utf8(self.get(number)?.split(|byte| *byte == 0).next()?).ok()
    }
}

/// One step of a rule: `limit`, `cmp`, or `match` and `target` with a module of iptables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expression {
    /// The kernel's name of the expression.
    pub name: String,
    /// What it works with; the numbers depend on the expression.
    pub data: Attributes,
}

/// A rule's expressions in order.
pub type Rule = Vec<Expression>;

/// A connection for requests to nftables; a kernel without nfnetlink has none.
#[derive(Clone)]
pub struct Nftables(ConnectionHandle<Message>);

impl Nftables {
    /// Connects; `None` if the kernel has no nfnetlink.
    pub fn connect() -> Option<Self> {
        let (connection, handle, _) = new_connection(NETLINK_NETFILTER).ok()?;
        tokio::spawn(connection);
        Some(Self(handle))
    }

    /// Returns the rules of a chain of the family `ip`; none if there is no such chain or table.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn rules(&mut self, table: &str, chain: &str) -> Result<Vec<Rule>> {
        self.rules_in(libc::AF_INET, table, chain).await
    }

    /// Returns the rules of a chain in the table of another; none if there is no such chain.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn rules_beside(&mut self, base: &BaseChain, chain: &str) -> Result<Vec<Rule>> {
        self.rules_in(base.family, &base.table, chain).await
    }

    /// Returns the elements of a set or map in the table of a chain.
    ///
    /// # Errors
    /// If the kernel refuses the dump; there may be no such set.
    pub async fn elements_beside(
        &mut self,
        base: &BaseChain,
        set: &str,
    ) -> Result<Vec<Attributes>> {
        let [table, name, elements] = ELEMENTS;
        let of_set = [text(table, &base.table), text(name, set)];
        let found = self.dump(GET_ELEMENTS, base.family, &of_set).await;
        let found = found.with_context(|| format!("reading the nft set {set} ({})", base.table))?;
        let listed = found.iter().map(|body| Attributes::read(body));
        let each = |listed: Attributes| {
            let bytes = listed.get(elements).unwrap_or_default().to_vec();
            let elements = NlasIterator::new(bytes.as_slice()).map_while(Result::ok);
            elements.map(|element| Attributes::read(element.value())).collect::<Vec<_>>()
        };
        Ok(listed.flat_map(each).collect())
    }

    /// Returns the chains that the kernel calls itself for IPv4 packets.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn base_chains(&mut self) -> Result<Vec<BaseChain>> {
        let mut chains = Vec::new();
        for family in [libc::AF_INET, FAMILY_INET] {
            let found = self.dump(GET_CHAIN, family, &[]).await.context("reading chains of nft")?;
            chains.extend(found.iter().filter_map(|body| {
                let attributes = Attributes::read(body);
                let text = |number| attributes.text(number).map(str::to_owned);
                let hook = attributes.inside(CHAIN_HOOK).number(HOOK_NUMBER)?;
                let (table, name) = (text(CHAIN_TABLE)?, text(CHAIN_NAME)?);
                let translates = attributes.text(CHAIN_TYPE) == Some("nat");
                let drops = attributes.number(CHAIN_POLICY) == Some(DROP);
                Some(BaseChain { family, table, name, hook, translates, drops })
            }));
        }
        Ok(chains)
    }

    /// Returns the rules of all chains of a table, with the chain of each.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn rules_of_table(
        &mut self,
        family: i32,
        table: &str,
    ) -> Result<Vec<(String, Rule)>> {
        let rules = self.dump(GET_RULE, family, &[text(RULE_TABLE, table)]).await;
        let rules = rules.with_context(|| format!("reading the nft table {table}"))?;
        let read = |body: &Vec<u8>| {
            let attributes = Attributes::read(body);
            let chain = attributes.text(RULE_CHAIN).unwrap_or_default().to_owned();
            (chain, rule(&attributes))
        };
        Ok(rules.iter().map(read).collect())
    }

    async fn rules_in(&mut self, family: i32, table: &str, chain: &str) -> Result<Vec<Rule>> {
        let of_chain = [text(RULE_TABLE, table), text(RULE_CHAIN, chain)];
        let rules = self.dump(GET_RULE, family, &of_chain).await;
        let rules = rules.with_context(|| format!("reading the nft chain {chain} ({table})"))?;
        Ok(rules.iter().map(|body| rule(&Attributes::read(body))).collect())
    }

    /// Returns the flowtables of all families.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn flowtables(&mut self) -> Result<Vec<Flowtable>> {
        let found = self.dump(GET_FLOWTABLE, libc::AF_UNSPEC, &[]).await;
        let found = found.context("reading flowtables of nft")?;
        Ok(found.iter().map(|body| flowtable(&Attributes::read(body))).collect())
    }

    /// Returns the names, and tables, of the objects of all families that hold timers of connections
    /// (`ct timeout`).
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn timeouts(&mut self) -> Result<Vec<(String, String)>> {
        let found = self.dump(GET_OBJECT, libc::AF_UNSPEC, &[]).await;
        let found = found.context("reading objects of nft")?;
        let objects = found.iter().map(|body| Attributes::read(body));
        let timeouts = objects.filter(|object| object.number(OBJECT_TYPE) == Some(CT_TIMEOUT));
        let text = |object: &Attributes, number| object.text(number).unwrap_or_default().to_owned();
        Ok(timeouts.map(|it| (text(&it, OBJECT_NAME), text(&it, OBJECT_TABLE))).collect())
    }

    /// Returns the attributes of each answer.
    async fn dump(&mut self, kind: u16, family: i32, given: &[DefaultNla]) -> Result<Vec<Vec<u8>>> {
        let mut body = vec![0; GENERIC_HEADER + given.buffer_len()];
        if let Some((generic, rest)) = body.split_at_mut_checked(GENERIC_HEADER) {
            generic[0] = family as u8;
            given.emit(rest);
        }
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let asking = NetlinkPayload::InnerMessage(Message { kind, body });
        let request = NetlinkMessage::new(header, asking);
        let mut answers = std::pin::pin!(self.0.request(request, SocketAddr::new(0, 0))?);
        let mut bodies = Vec::new();
        while let Some(message) = answers.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => {
                    bodies.push(message.body.get(GENERIC_HEADER..).unwrap_or_default().to_vec());
                }
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                _ => {}
            }
        }
        Ok(bodies)
    }
}

/// An attribute with a text, which ends with a zero.
fn text(number: u16, text: &str) -> DefaultNla {
    DefaultNla::new(number, [text.as_bytes(), &[0]].concat())
}

/// A chain that the kernel calls itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseChain {
    /// `NFPROTO_IPV4` or `NFPROTO_INET`.
    pub family: i32,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// When: `enum nf_inet_hooks`, from `prerouting` 0 to `postrouting` 4.
    pub hook: u32,
    /// It translates addresses (type `nat`), and sees the first packets of connections only.
    pub translates: bool,
    /// Its policy: packets that no rule accepts are dropped.
    pub drops: bool,
}

/// A flowtable: established packets that arrive on one of its devices pass by the hooks `forward` and
/// `postrouting` (`net/netfilter/nf_flow_table_ip.c`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flowtable {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The names of its devices.
    pub devices: Vec<String>,
}

fn flowtable(attributes: &Attributes) -> Flowtable {
    let text = |number| attributes.text(number).unwrap_or_default().to_owned();
    let hook = attributes.inside(FLOWTABLE_HOOK);
    let listed = hook.get(HOOK_DEVICES).unwrap_or_default();
    // Each has the same number.
    let devices = NlasIterator::new(listed).map_while(Result::ok).filter_map(|device| {
        let name = device.value().split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    });
    Flowtable {
        table: text(FLOWTABLE_TABLE),
        name: text(FLOWTABLE_NAME),
        devices: devices.collect(),
    }
}

fn rule(attributes: &Attributes) -> Rule {
    let listed = attributes.get(RULE_EXPRESSIONS).unwrap_or_default();
    let expressions = NlasIterator::new(listed).map_while(Result::ok).map(|element| {
        let parts = Attributes::read(element.value());
        let name = parts.text(EXPRESSION_NAME).unwrap_or_default().to_owned();
        Expression { name, data: parts.inside(EXPRESSION_DATA) }
    });
    expressions.collect()
}

/// A message of nfnetlink, whose body is read later.
#[derive(Clone, Debug)]
struct Message {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, body: payload.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One attribute; its value is padded to four bytes.
    fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
        let attribute = DefaultNla::new(number, value.to_vec());
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_flowtable_names_its_devices() {
        let device = |name: &str| attribute(1, &[name.as_bytes(), &[0]].concat());
        let devices = [device("cali1"), device("eth0")].concat();
        let hook = [attribute(1, &[0, 0, 0, 0]), attribute(HOOK_DEVICES, &devices)].concat();
        let body = [
            attribute(FLOWTABLE_TABLE, b"calico\0"),
            attribute(FLOWTABLE_NAME, b"calico\0"),
            attribute(FLOWTABLE_HOOK, &hook),
        ];
        let found = flowtable(&Attributes::read(&body.concat()));
        assert_eq!((found.table.as_str(), found.name.as_str()), ("calico", "calico"));
        assert_eq!(found.devices, ["cali1", "eth0"]);
    }

    /// What is cut off, or empty, is as far as it goes.
    #[test]
    fn broken_messages_are_read_as_far_as_they_go() {
        let good = attribute(FLOWTABLE_NAME, b"calico\0");
        for length in 0..good.len() {
            let found = flowtable(&Attributes::read(&good[..length]));
            assert_eq!(found.devices, Vec::<String>::new());
        }
        assert_eq!(rule(&Attributes::default()), Vec::new());
    }
}
