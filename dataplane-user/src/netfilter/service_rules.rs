//! Rules of a host that stand against leases of Services: they are read as the kernel lists them, or as
//! `iptables-legacy-save` prints them.

use std::collections::BTreeSet;

use crate::kernel::{Attributes, Expression, Rule};

/// Chains, each with its table.
pub type Chains = BTreeSet<(String, String)>;

/// What was found, each with the chains where it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceRules {
    /// Rules that put packets into a queue to user space.
    pub queueing: Chains,
    /// Rules that compare or set the bit of the packet mark which is ours for Services.
    pub marking: Chains,
    /// Rules that give connections timers of their own (`-j CT --timeout`), and objects of nftables that
    /// hold such timers (`ct timeout`), in the place of a chain.
    pub timing: Chains,
}

impl ServiceRules {
    /// Adds a rule of a chain. `bit`: ours of the packet mark.
    pub fn add(&mut self, bit: u32, table: &str, chain: &str, rule: &Rule) {
        let place = || (chain.to_owned(), table.to_owned());
        if queues(rule) {
            self.queueing.insert(place());
        }
        if mark_bits(rule) & bit != 0 {
            self.marking.insert(place());
        }
        if rule.iter().any(sets_timers) {
            self.timing.insert(place());
        }
    }

    /// Adds what `iptables-legacy-save` prints of a table.
    pub fn add_saved(&mut self, bit: u32, table: &str, saved: &str) {
        for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
            let place = || (rule.split(' ').next().unwrap_or(rule).to_owned(), table.to_owned());
            if rule.contains(" -j NFQUEUE") {
                self.queueing.insert(place());
            }
            if saved_mark_bits(rule) & bit != 0 {
                self.marking.insert(place());
            }
            if rule.contains(" -j CT ") && rule.contains(" --timeout ") {
                self.timing.insert(place());
            }
        }
    }
}

/// Returns whether a rule puts packets into a queue: an expression of nftables, or a target of iptables.
fn queues(rule: &Rule) -> bool {
    rule.iter().any(|step| match step.name.as_str() {
        "queue" => true,
        "target" => xt_name(step) == Some("NFQUEUE"),
        _ => false,
    })
}

/// Returns whether it is iptables' target `CT` with the name of a policy of timers
/// (`struct xt_ct_target_info_v1`, `linux/netfilter/xt_CT.h`).
fn sets_timers(step: &Expression) -> bool {
    const TIMEOUT: usize = 28;
    let is_named = || xt_data(step).get(TIMEOUT).is_some_and(|first| *first != 0);
    // The structure of revision 0 ends with a pointer there.
    step.name == "target" && xt_name(step) == Some("CT") && xt_revision(step) > 0 && is_named()
}

/// Returns the bits of the packet mark that a rule compares, or sets to 1. Bits that it only clears are
/// not among them: what is behind it sees none of ours.
fn mark_bits(rule: &Rule) -> u32 {
    let mut bits = 0;
    // What a register holds: the mark, and through which mask it came.
    let mut loaded: Option<Loaded> = None;
    let mut constant = None;
    for step in rule {
        match step.name.as_str() {
            "match" | "target" => bits |= xt_mark_bits(step),
            "meta" if step.data.number(META_KEY) == Some(META_MARK) => {
                if step.data.get(META_SOURCE).is_none() {
                    loaded = Some(Loaded { mask: u32::MAX, set: 0 });
                } else {
                    bits |= loaded.take().map(|it| it.set).or(constant).unwrap_or(0);
                }
            }
            "bitwise" => {
                let operand = |number| value(&step.data.inside(number));
                if let (Some(mark), Some(mask), Some(xor)) =
                    (&mut loaded, operand(BITWISE_MASK), operand(BITWISE_XOR))
                {
                    *mark = Loaded { mask: mark.mask & mask, set: (mark.set & mask) | xor };
                }
            }
            "cmp" => {
                if let Some(Loaded { mask, .. }) = loaded.take() {
                    bits |= compared(value(&step.data.inside(CMP_DATA)).unwrap_or(0), mask);
                }
            }
            "immediate" => constant = value(&step.data.inside(IMMEDIATE_DATA)),
            // Another thing is compared or loaded.
            "payload" | "ct" => loaded = None,
            // Of a set's or a map's marks the mask is known.
            "lookup" => bits |= loaded.take().map_or(0, |mark| partial(mark.mask)),
            _ => {}
        }
    }
    bits
}

/// The packet mark on its way through a rule.
#[derive(Clone, Copy)]
struct Loaded {
    /// The bits that are still in it.
    mask: u32,
    /// Those that were set.
    set: u32,
}

/// Returns the bits that a comparison is about: with a mask those, else the ones that the value has.
fn compared(value: u32, mask: u32) -> u32 {
    if mask == u32::MAX { value } else { mask }
}

/// Returns a mask that picks bits; one that takes all of them picks none.
fn partial(mask: u32) -> u32 {
    compared(0, mask)
}

/// `NFTA_META_KEY`, `NFTA_META_SREG`; `NFT_META_MARK` (`linux/netfilter/nf_tables.h`, as all below).
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
const META_MARK: u32 = 3;
/// `NFTA_BITWISE_MASK`, `NFTA_BITWISE_XOR`.
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
/// `NFTA_CMP_DATA`.
const CMP_DATA: u16 = 3;
/// `NFTA_IMMEDIATE_DATA`.
const IMMEDIATE_DATA: u16 = 2;
/// `NFTA_DATA_VALUE`.
const DATA_VALUE: u16 = 1;

/// Reads a number of four bytes in this host's byte order, as marks are.
fn value(data: &Attributes) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(DATA_VALUE)?.try_into().ok()?))
}

/// The same of a match or target of iptables: `struct xt_mark_mtinfo1` and `xt_mark_tginfo2` begin with
/// value and mask, `xt_connmark_tginfo1` with value and two masks, the second of the packet mark.
fn xt_mark_bits(step: &Expression) -> u32 {
    let word = |number: usize| {
        let bytes = xt_data(step).get(4 * number..4 * number + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let word = |number| word(number).unwrap_or(0);
    match (step.name.as_str(), xt_name(step)) {
        ("match", Some("mark")) => compared(word(0), word(1)),
        ("target", Some("MARK")) => word(0),
        ("target", Some("CONNMARK")) => partial(word(2)),
        _ => 0,
    }
}

/// `NFTA_TARGET_NAME`, `_REV` and `_INFO`; those of a match have the same numbers.
fn xt_name(step: &Expression) -> Option<&str> {
    step.data.text(1)
}

fn xt_revision(step: &Expression) -> u32 {
    step.data.number(2).unwrap_or(0)
}

fn xt_data(step: &Expression) -> &[u8] {
    step.data.get(3).unwrap_or_default()
}

/// As [`mark_bits`], of a rule as `iptables-save` prints it.
fn saved_mark_bits(rule: &str) -> u32 {
    let words: Vec<&str> = rule.split(' ').collect();
    let pairs = words.windows(2).filter_map(|pair| {
        let (value, mask) = pair[1].split_once('/').unwrap_or((pair[1], "0xffffffff"));
        let (value, mask) = (number(value)?, number(mask)?);
        Some(match pair[0] {
            "--mark" => compared(value, mask),
            "--set-xmark" | "--set-mark" | "--or-mark" | "--xor-mark" => value,
            "--nfmask" => partial(value),
            _ => 0,
        })
    });
    pairs.fold(0, |bits, more| bits | more)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIT: u32 = 0x800;

    fn step(name: &str, data: &[(u16, &[u8])]) -> Expression {
        let data = data.iter().map(|(number, value)| (*number, value.to_vec())).collect();
        Expression { name: name.into(), data: Attributes(data) }
    }

    /// An attribute with a value of four bytes inside.
    fn inside(value: u32) -> Vec<u8> {
        [&[8, 0, 1, 0], value.to_ne_bytes().as_slice()].concat()
    }

    fn load() -> Expression {
        step("meta", &[(META_KEY, &META_MARK.to_be_bytes()), (1, &[0, 0, 0, 1])])
    }

    fn store() -> Expression {
        step("meta", &[(META_KEY, &META_MARK.to_be_bytes()), (META_SOURCE, &[0, 0, 0, 1])])
    }

    fn bitwise(mask: u32, xor: u32) -> Expression {
        step("bitwise", &[(BITWISE_MASK, &inside(mask)), (BITWISE_XOR, &inside(xor))])
    }

    fn cmp(value: u32) -> Expression {
        step("cmp", &[(CMP_DATA, &inside(value))])
    }

    fn xt(kind: &str, name: &str, words: &[u32]) -> Expression {
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        step(kind, &[(1, &[name.as_bytes(), &[0]].concat()), (3, &data)])
    }

    #[test]
    fn rules_that_queue_are_found() {
        let target = |name: &[u8]| step("target", &[(1, name)]);
        assert!(queues(&vec![step("cmp", &[]), step("queue", &[])]));
        assert!(queues(&vec![target(b"NFQUEUE\0")]));
        assert!(!queues(&vec![target(b"MARK\0"), step("counter", &[])]));
    }

    #[test]
    fn bits_of_the_mark_are_those_that_are_compared_or_set() {
        let other = |name| step(name, &[]);
        let cases: [(Rule, u32); 17] = [
            (vec![load(), cmp(0x801)], 0x801),
            (vec![load(), bitwise(0x800, 0), cmp(0x800)], 0x800),
            (vec![load(), bitwise(0x0ff0, 0), cmp(0)], 0x0ff0),
            (vec![load(), bitwise(!0x4000, 0x4000), store()], 0x4000),
            (vec![load(), bitwise(!0x4000, 0), store()], 0),
            (vec![step("immediate", &[(IMMEDIATE_DATA, &inside(0x800))]), store()], 0x800),
            (vec![load(), bitwise(0xff00, 0), other("lookup")], 0xff00),
            (vec![load(), other("lookup")], 0),
            (vec![other("ct"), store()], 0),
            // What is compared is a port.
            (vec![load(), other("payload"), cmp(0x800)], 0),
            (vec![xt("match", "mark", &[0x800, 0x800, 0])], 0x800),
            (vec![xt("match", "mark", &[0, 0xf0000, 1])], 0xf0000),
            (vec![xt("match", "connmark", &[0x800, 0x800, 0])], 0),
            (vec![xt("target", "MARK", &[0x40000, 0x40000])], 0x40000),
            (vec![xt("target", "MARK", &[0, 0xe0000])], 0),
            (vec![xt("target", "CONNMARK", &[0, 0xff, 0xff])], 0xff),
            (vec![xt("target", "CONNMARK", &[0, u32::MAX, u32::MAX])], 0),
        ];
        for (rule, bits) in cases {
            assert_eq!(mark_bits(&rule), bits, "{rule:?}");
        }
    }

    #[test]
    fn a_policy_of_timers_has_a_name() {
        let target = |name: &[u8], revision: u8, timeout: &[u8]| {
            let mut info = vec![0; 72];
            info[28..28 + timeout.len()].copy_from_slice(timeout);
            step("target", &[(1, name), (2, &[0, 0, 0, revision]), (3, &info)])
        };
        assert!(sets_timers(&target(b"CT\0", 2, b"long")));
        assert!(!sets_timers(&target(b"CT\0", 2, b"")), "only a zone or NOTRACK");
        assert!(!sets_timers(&target(b"CT\0", 0, b"long")), "padding");
        assert!(!sets_timers(&target(b"MARK\0", 2, b"long")));
    }

    #[test]
    fn rules_of_iptables_legacy_are_read() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j NFQUEUE --queue-num 3\n\
                     -A FORWARD -j ACCEPT\n-A other -m mark --mark 1 -j NFQUEUE\n\
                     -A cali-x -m mark --mark 0x0/0x1800 -j RETURN\n\
                     -A cali-y -j MARK --set-xmark 0x0/0x800\n\
                     -A cali-z -j MARK --set-xmark 0x800/0x800\n\
                     -A PREROUTING -p tcp -j CT --timeout long\n-A raw -j CT --notrack\nCOMMIT\n";
        let mut found = ServiceRules::default();
        found.add_saved(BIT, "t", saved);
        let chains = |names: &[&str]| -> Chains {
            names.iter().map(|name| ((*name).to_owned(), "t".to_owned())).collect()
        };
        let expected = ServiceRules {
            queueing: chains(&["FORWARD", "other"]),
            marking: chains(&["cali-x", "cali-z"]),
            timing: chains(&["PREROUTING"]),
        };
        assert_eq!(found, expected);
        for rule in [vec![load(), cmp(BIT)], vec![step("queue", &[])]] {
            found.add(BIT, "new", "chain", &rule);
        }
        assert!(found.queueing.contains(&("chain".into(), "new".into())));
        assert!(found.marking.contains(&("chain".into(), "new".into())));
        assert_eq!(found.timing, expected.timing);
    }
}
