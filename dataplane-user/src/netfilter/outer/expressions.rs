//! Reads the expressions of a rule of nftables (`NFTA_*` in `linux/netfilter/nf_tables.h`).

use std::collections::BTreeMap;

use super::{
    packet::{Byte, Direction, Operation, Value},
    rule::{Condition, Rule, Verdict},
    set::SLOT,
};
use crate::kernel::{self, Attributes, Expression};

/// `NFTA_META_DREG`, `_KEY`, `_SREG`, and keys (`enum nft_meta_keys`).
const META: [u16; 3] = [1, 2, 3];
const META_PROTOCOL: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// `NFTA_PAYLOAD_DREG`, `_BASE`, `_OFFSET` (bytes), `_LEN` (bytes), `_SREG`; bases.
const PAYLOAD: [u16; 5] = [1, 2, 3, 4, 5];
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFTA_BITWISE_SREG`, `_DREG`, `_MASK`, `_XOR`.
const BITWISE: [u16; 4] = [1, 2, 4, 5];
/// `NFTA_CMP_SREG`, `_OP`, `_DATA`.
const COMPARE: [u16; 3] = [1, 2, 3];
/// `NFTA_RANGE_SREG`, `_OP` (1: outside), `_FROM_DATA`, `_TO_DATA`.
const RANGE: [u16; 4] = [1, 2, 3, 4];
/// `NFTA_LOOKUP_SET`, `_SREG`, `_DREG`, `_FLAGS` (1: not in it).
const LOOKUP: [u16; 4] = [1, 2, 3, 5];
/// `NFTA_IMMEDIATE_DATA`.
const IMMEDIATE_DATA: u16 = 2;
/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;
/// `NFTA_MATCH_NAME`.
const MATCH_NAME: u16 = 1;

/// Reads expressions one after the other.
struct Reader {
    direction: Direction,
    /// By their first 32 bits.
    registers: BTreeMap<u32, Value>,
    rule: Rule,
}

/// The place of a register in units of 32 bits (`enum nft_registers`).
const fn slot(register: u32) -> u32 {
    match register {
        1..=4 => (register - 1) * 4,
        _ => register.wrapping_sub(8),
    }
}

impl Rule {
    /// Reads a rule of a chain whose hook sees packets of this direction.
    #[must_use]
    pub fn read(rule: &kernel::Rule, direction: Direction) -> Self {
        let registers = BTreeMap::new();
        let mut reader = Reader { direction, registers, rule: Self::default() };
        for expression in rule {
            reader.read(expression);
        }
        reader.rule
    }
}

impl Reader {
    fn read(&mut self, Expression { name, data }: &Expression) {
        match name.as_str() {
            "meta" if data.get(META[2]).is_some() => self.rule.acts = true,
            "meta" => {
                let value = self.meta(data.number(META[1]).unwrap_or_default());
                self.load(data.number(META[0]), value);
            }
            "payload" if data.get(PAYLOAD[4]).is_some() => self.rule.acts = true,
            "payload" => {
                let place = [PAYLOAD[1], PAYLOAD[2], PAYLOAD[3]].map(|it| data.number(it));
                let value = match place {
                    [Some(NETWORK_HEADER), Some(offset), Some(length)] => {
                        Value::Bytes(self.direction.header(offset as usize, length as usize))
                    }
                    [Some(TRANSPORT_HEADER), ..] => Value::Absent,
                    _ => Value::Bytes(vec![Byte::Unknown]),
                };
                self.load(data.number(PAYLOAD[0]), value);
            }
            "bitwise" => self.bitwise(data),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "immediate" => {
                if let Some(verdict) = Verdict::read(&data.inside(IMMEDIATE_DATA)) {
                    self.rule.acts |= verdict == Verdict::Stop;
                    self.rule.verdict = Some(verdict);
                }
            }
            "match" => self.rule.ask(data.text(MATCH_NAME).unwrap_or_default()),
            "limit" | "quota" => {
                self.rule.acts = true;
                self.rule.is_partial = true;
            }
            "target" | "reject" | "queue" | "notrack" | "nat" | "masq" | "redir" | "tproxy"
            | "dup" | "fwd" => self.rule.acts = true,
            "counter" | "log" | "last" => {}
            // `ct`, `fib`, `rt`, `socket` …: what they find is compared next.
            _ => {
                self.rule.is_partial = true;
                self.registers.clear();
            }
        }
    }

    fn load(&mut self, register: Option<u32>, value: Value) {
        let Some(register) = register else { return };
        self.registers.insert(slot(register), value);
    }

    fn meta(&self, key: u32) -> Value {
        /// `NFPROTO_IPV4`, `ETH_P_IP`.
        const IPV4: u8 = 2;
        const ETHERTYPE: [u8; 2] = [8, 0];
        match (key, self.direction) {
            (META_L4PROTO, _) => Value::Bytes(vec![Byte::Protocol]),
            (META_NFPROTO, _) => Value::Bytes(vec![Byte::Is(IPV4)]),
            (META_PROTOCOL, _) => Value::Bytes(ETHERTYPE.map(Byte::Is).to_vec()),
            (META_IIFNAME, Direction::In) | (META_OIFNAME, Direction::Out) => Value::Link,
            _ => Value::Bytes(vec![Byte::Unknown]),
        }
    }

    fn bitwise(&mut self, data: &Attributes) {
        let [source, target, mask, flipped] = BITWISE;
        let value = data.number(source).and_then(|it| self.registers.get(&slot(it)));
        let mask = data.inside(mask).get(DATA_VALUE).map(<[u8]>::to_vec);
        let flipped = data.inside(flipped).get(DATA_VALUE).map(<[u8]>::to_vec);
        let is_plain = flipped.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0));
        let masked = match (value, mask) {
            (Some(Value::Bytes(bytes)), Some(mask)) if is_plain => {
                let pairs = bytes.iter().zip(&mask);
                Value::Bytes(pairs.map(|(byte, mask)| byte.masked(*mask)).collect())
            }
            _ => Value::Bytes(vec![Byte::Unknown]),
        };
        self.load(data.number(target), masked);
    }

    fn value(&self, register: Option<u32>) -> Value {
        let value = register.and_then(|register| self.registers.get(&slot(register)));
        value.cloned().unwrap_or_else(|| Value::Bytes(vec![Byte::Unknown]))
    }

    fn compare(&mut self, data: &Attributes) {
        let [source, operation, wanted] = COMPARE;
        let wanted = data.inside(wanted).get(DATA_VALUE).map(<[u8]>::to_vec);
        match (data.number(operation).and_then(Operation::read), wanted) {
            (Some(operation), Some(wanted)) => {
                let value = self.value(data.number(source));
                self.rule.add(Some(Condition::Compare(value, operation, wanted)));
            }
            _ => self.rule.add(None),
        }
    }

    fn range(&mut self, data: &Attributes) {
        let [source, operation, from, to] = RANGE;
        let end = |number| data.inside(number).get(DATA_VALUE).map(<[u8]>::to_vec);
        match (data.number(operation), end(from), end(to)) {
            (Some(operation @ 0..=1), Some(from), Some(to)) => {
                let value = self.value(data.number(source));
                let is_outside = operation == 1;
                self.rule.add(Some(Condition::Range { value, is_outside, from, to }));
            }
            _ => self.rule.add(None),
        }
    }

    fn lookup(&mut self, data: &Attributes) {
        let [set, source, target, flags] = LOOKUP;
        let Some(set) = data.text(set).map(str::to_owned) else {
            self.rule.is_unreadable = true;
            return;
        };
        let key = self.key(data.number(source));
        match data.number(target) {
            Some(0) => self.rule.map = Some((key, set)),
            // A value for the packet.
            Some(register) => self.load(Some(register), Value::Bytes(vec![Byte::Unknown])),
            None => {
                let is_outside = data.number(flags).is_some_and(|flags| flags & 1 != 0);
                self.rule.add(Some(Condition::Lookup { key, set, is_outside }));
            }
        }
    }

    /// The parts of a key: what is in the registers from this one on, without a gap.
    fn key(&self, register: Option<u32>) -> Vec<Value> {
        /// `IFNAMSIZ` in units of 32 bits.
        const NAME: usize = 4;
        let mut at = register.map_or(0, slot);
        let mut key = Vec::new();
        while let Some(value) = self.registers.get(&at) {
            let length = match value {
                Value::Bytes(bytes) => bytes.len().div_ceil(SLOT).max(1),
                Value::Link => NAME,
                Value::Absent => 1,
            };
            at += length as u32;
            key.push(value.clone());
        }
        key
    }
}
