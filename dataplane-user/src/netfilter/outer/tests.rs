//! Rules in words, as the kernel lists them, and which of them count.

use super::*;
use crate::kernel::{Attributes, Expression};

const NODE: &str = "172.16.35.4";
const OTHER: &str = "172.16.34.7";

fn ip(text: &str) -> Vec<u8> {
    text.parse::<Ipv4Addr>().unwrap().octets().to_vec()
}

fn number(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A link's name as the kernel compares it.
fn link(name: &str) -> Vec<u8> {
    if let Some(beginning) = name.strip_suffix('*') {
        return beginning.into();
    }
    let mut name = name.as_bytes().to_vec();
    name.resize(16, 0);
    name
}

fn attributes(all: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Attributes {
    Attributes(all.into_iter().collect())
}

/// Attributes inside an attribute (`struct nlattr`).
fn nested(all: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, value) in all {
        bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn value(bytes: Vec<u8>) -> Vec<u8> {
    nested([(1, bytes)])
}

fn verdict(words: &str) -> Option<Vec<u8>> {
    let code = |code: i32, chain: &str| {
        let chain = (!chain.is_empty()).then(|| (2, text(chain)));
        nested([(2, nested([(1, number(code.cast_unsigned()))].into_iter().chain(chain)))])
    };
    Some(match words.split_once(':').unwrap_or((words, "")) {
        ("drop", _) => code(0, ""),
        ("accept", _) => code(1, ""),
        ("continue", _) => code(-1, ""),
        ("jump", chain) => code(-3, chain),
        ("goto", chain) => code(-4, chain),
        ("return", _) => code(-5, ""),
        _ => return None,
    })
}

fn expression(name: &str, all: impl IntoIterator<Item = (u16, Vec<u8>)>) -> Expression {
    Expression { name: name.into(), data: attributes(all) }
}

fn payload(register: u32, offset: u32, length: u32) -> Expression {
    let place = [(2, number(1)), (3, number(offset)), (4, number(length))];
    expression("payload", [(1, number(register))].into_iter().chain(place))
}

fn meta(key: u32) -> Expression {
    expression("meta", [(1, number(1)), (2, number(key))])
}

fn compare(operation: u32, bytes: Vec<u8>) -> Expression {
    expression("cmp", [(1, number(1)), (2, number(operation)), (3, value(bytes))])
}

fn lookup(set: &str, more: Option<(u16, Vec<u8>)>) -> Expression {
    expression("lookup", [(1, text(set)), (2, number(1))].into_iter().chain(more))
}

/// A rule in words: `saddr=A`, `saddr!=A`, `saddr=A/16`, `saddr@SET`, `saddr!@SET`, `saddr.proto@SET`,
/// `saddr^MAP` for a map of verdicts, `iif=NAME`, `xt:NAME`, and verdicts.
fn rule(words: &str) -> Vec<Expression> {
    let mut rule = Vec::new();
    for word in words.split_whitespace() {
        if let Some(found) = verdict(word) {
            rule.push(expression("immediate", [(1, number(0)), (2, found)]));
            continue;
        }
        if let Some(name) = word.strip_prefix("xt:") {
            rule.push(expression("match", [(1, text(name))]));
            continue;
        }
        let Some(at) = word.find(['=', '@', '^', '!']) else {
            rule.push(expression(word, []));
            continue;
        };
        let (key, test) = word.split_at(at);
        match key {
            "saddr" => rule.push(payload(1, 12, 4)),
            "daddr" => rule.push(payload(1, 16, 4)),
            // Two fields side by side, in one look.
            "both" => rule.push(payload(1, 12, 8)),
            "proto" => rule.push(payload(1, 9, 1)),
            "saddr.proto" => rule.extend([payload(1, 12, 4), payload(9, 9, 1)]),
            "l4proto" => rule.push(meta(16)),
            "nfproto" => rule.push(meta(15)),
            "iif" => rule.push(meta(6)),
            "mark" => rule.push(meta(3)),
            "dport" => rule.push(expression(
                "payload",
                [(1, number(1)), (2, number(2)), (3, number(2)), (4, number(2))],
            )),
            _ => panic!("{word}"),
        }
        let bytes = |text: &str| match key {
            "iif" => link(text),
            "both" => text.split('-').flat_map(ip).collect(),
            "saddr" | "daddr" => ip(text),
            "mark" => number(text.parse().unwrap()),
            _ => vec![text.parse().unwrap()],
        };
        let (is_not, test) = test.strip_prefix('!').map_or((false, test), |test| (true, test));
        match (&test[..1], &test[1..]) {
            ("=", wanted) => {
                if let Some((net, length)) = wanted.split_once('/') {
                    let mask = (u32::MAX << (32 - length.parse::<u32>().unwrap())).to_be_bytes();
                    let mask = (4, value(mask.to_vec()));
                    rule.push(expression(
                        "bitwise",
                        [(1, number(1)), (2, number(1)), mask, (5, value(vec![0; 4]))],
                    ));
                    rule.push(compare(u32::from(is_not), ip(net)));
                } else {
                    rule.push(compare(u32::from(is_not), bytes(wanted)));
                }
            }
            ("@", set) => rule.push(lookup(set, is_not.then(|| (5, number(1))))),
            ("^", map) => rule.push(lookup(map, Some((3, number(0))))),
            _ => panic!("{word}"),
        }
    }
    rule
}

/// Elements in words: `A`, `A-B` for an interval, `A.4` with the protocol, `NAME>VERDICT`.
fn elements(words: &[&str]) -> Elements {
    let mut all = Vec::new();
    for word in words {
        let (key, then) =
            word.split_once('>').map_or((*word, None), |(key, it)| (key, verdict(it)));
        let data = then.map(|then| (2, then));
        if let Some((from, to)) = key.split_once('-') {
            let next = u32::from(to.parse::<Ipv4Addr>().unwrap()) + 1;
            all.push(attributes([(1, value(ip(from)))].into_iter().chain(data)));
            all.push(attributes([(1, value(number(next))), (3, number(1))]));
            continue;
        }
        let bytes = match key.strip_suffix(".4") {
            Some(address) if address.matches('.').count() == 3 => {
                [ip(address), vec![4, 0, 0, 0]].concat()
            }
            _ if key == "*" => {
                all.push(attributes([(3, number(2))].into_iter().chain(data)));
                continue;
            }
            _ if key.parse::<Ipv4Addr>().is_ok() => ip(key),
            _ => link(key),
        };
        all.push(attributes([(1, value(bytes))].into_iter().chain(data)));
    }
    Elements::read(&all)
}

type Chains<'a> = &'a [(&'a str, &'a [&'a str])];

/// Which rules count, of chains that begin with `base`, as chain and place.
fn found(direction: Direction, chains: Chains<'_>, sets: Chains<'_>) -> Vec<String> {
    found_by_policy(false, direction, chains, sets)
}

/// The same; `drops`: the policy of `base`.
fn found_by_policy(
    drops: bool,
    direction: Direction,
    chains: Chains<'_>,
    sets: Chains<'_>,
) -> Vec<String> {
    let packets = Packets {
        direction,
        nodes: [NODE, OTHER].map(|node| node.parse().unwrap()).into(),
        links: ["eth0".to_owned()].into(),
    };
    let rules = |rules: &[&str]| rules.iter().map(|it| Rule::read(&rule(it), direction)).collect();
    let ruleset = Ruleset {
        chains: chains.iter().map(|(name, words)| ((*name).to_owned(), rules(words))).collect(),
        sets: sets.iter().map(|(name, words)| ((*name).to_owned(), elements(words))).collect(),
    };
    let found = ruleset.concerning("base", drops, &packets);
    found.iter().map(|(chain, place)| format!("{chain} {place}")).collect()
}

#[test]
fn a_rule_counts_if_it_changes_the_fate_of_a_nodes_packets() {
    for (words, counts) in [
        ("proto=4 drop", true),
        ("l4proto=4 drop", true),
        ("nfproto=2 l4proto=4 drop", true),
        ("nfproto=10 l4proto=4 drop", false),
        ("saddr=172.16.35.4 reject", true),
        ("saddr=172.16.35.4 notrack", true),
        ("saddr=172.16.35.4 limit accept", true),
        ("saddr=172.16.0.0/16 drop", true),
        ("saddr=172.17.0.0/16 drop", false),
        ("both=172.16.35.4-172.16.36.10 drop", true),
        ("both=198.51.100.7-172.16.36.10 drop", false),
        // Other protocols, other hosts, other links.
        ("saddr=172.16.35.4 l4proto=6 drop", false),
        ("saddr=172.16.35.4 dport=9 drop", false),
        ("saddr=198.51.100.7 drop", false),
        ("proto=4 saddr=198.51.100.7 drop", false),
        ("proto!=4 drop", false),
        ("proto=4 iif=cali* drop", false),
        ("proto=4 iif=eth1 drop", false),
        ("proto=4 iif=eth* drop", true),
        ("proto=4 iif=eth0 drop", true),
        ("proto=4 iif!=eth0 drop", false),
        // Everything but this is about everything.
        ("drop", false),
        ("saddr!=198.51.100.7 drop", false),
        ("proto=4 saddr!=198.51.100.7 drop", true),
        ("proto=4 saddr!=172.16.35.4 drop", true),
        // Some of the packets, maybe.
        ("proto=4 mark=7 drop", true),
        ("proto=4 ct drop", true),
        ("proto=4 xt:addrtype drop", true),
        // Without effect.
        ("proto=4 accept", false),
        ("proto=4 counter", false),
        ("proto=4 continue", false),
        ("proto=4 log", false),
        // Nothing is guessed about an ipset.
        ("proto=4 xt:set drop", false),
        ("proto=4 xt:comment drop", true),
        ("saddr@unknown drop", false),
        ("saddr!@unknown proto=4 drop", false),
    ] {
        let found = found(Direction::In, &[("base", &[words])], &[]);
        let expected: &[&str] = if counts { &["base 0"] } else { &[] };
        assert_eq!(found, expected, "{words}");
    }
    // Of packets that are sent the node is the destination.
    for (words, counts) in [
        ("daddr=172.16.35.4 drop", true),
        ("saddr=172.16.35.4 drop", false),
        ("proto=4 drop", true),
    ] {
        let found = found(Direction::Out, &[("base", &[words])], &[]);
        assert_eq!(!found.is_empty(), counts, "{words}");
    }
}

/// What returns from the first chain is the policy's.
#[test]
fn the_policy_of_a_chain_counts_for_what_returns() {
    for (drops, words, counts) in [
        (true, "proto=4 return", true),
        (false, "proto=4 return", false),
        (true, "return", false),
        (true, "proto=4 accept", false),
    ] {
        let chains: Chains<'_> = &[("base", &[words])];
        let found = found_by_policy(drops, Direction::In, chains, &[]);
        assert_eq!(!found.is_empty(), counts, "{drops} {words}");
    }
    let chains: Chains<'_> = &[("base", &["jump:x"]), ("x", &["proto=4 return"])];
    assert!(found_by_policy(true, Direction::In, chains, &[]).is_empty());
}

#[test]
fn sets_are_looked_into() {
    let sets: Chains<'_> = &[
        ("node", &["198.51.100.7", NODE]),
        ("both", &[NODE, OTHER]),
        ("none", &["198.51.100.7", "172.16.35.5"]),
        ("empty", &[]),
        ("around", &["10.0.0.0-10.255.255.255", "172.16.35.0-172.16.35.63", "192.0.2.0-192.0.2.9"]),
        ("beside", &["172.16.35.5-172.16.35.63", "172.16.34.8-172.16.35.3"]),
        ("pairs", &["198.51.100.7.4", "172.16.35.4.4"]),
        ("other-pairs", &["198.51.100.7.4"]),
        ("links", &["eth1", "lo"]),
        ("our-links", &["eth0", "lo"]),
        ("verdicts", &["172.16.35.4>drop"]),
        ("all", &["*"]),
    ];
    for (words, counts) in [
        ("saddr@node drop", true),
        ("saddr@none drop", false),
        ("saddr@empty drop", false),
        ("saddr@around drop", true),
        ("saddr@beside drop", false),
        ("saddr@all proto=4 drop", true),
        ("proto=4 saddr!@node drop", true),
        ("proto=4 saddr!@both drop", false),
        ("proto=4 saddr!@none drop", true),
        ("saddr!@none drop", false),
        ("saddr.proto@pairs drop", true),
        ("saddr.proto@other-pairs drop", false),
        ("proto=4 iif@links drop", false),
        ("proto=4 iif@our-links drop", true),
        // IPIP has no ports.
        ("dport@all drop", false),
        ("proto=4 dport^verdicts", false),
    ] {
        let found = found(Direction::In, &[("base", &[words])], sets);
        let expected: &[&str] = if counts { &["base 0"] } else { &[] };
        assert_eq!(found, expected, "{words}");
    }
}

#[test]
fn chains_are_followed_as_the_kernel_follows_them() {
    /// What it is, chains, sets, and which rules count.
    type Case<'a> = (&'a str, Chains<'a>, Chains<'a>, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            "the rule that jumps names them",
            &[("base", &["proto=4 jump:x"][..]), ("x", &["counter", "drop"])][..],
            &[][..],
            &["x 1"][..],
        ),
        (
            "the chain names them",
            &[("base", &["mark=0 jump:x"]), ("x", &["goto:y"]), ("y", &["saddr=172.16.35.4 drop"])],
            &[],
            &["y 0"],
        ),
        (
            "no packet of a node gets there",
            &[
                ("base", &["iif=cali* goto:x", "l4proto=6 jump:x", "saddr=198.51.100.7 jump:x"]),
                ("x", &["proto=4 drop"]),
            ],
            &[],
            &[],
        ),
        ("accepted before", &[("base", &["proto=4 accept", "proto=4 drop"])], &[], &[]),
        (
            "accepted before in another chain",
            &[("base", &["jump:x", "proto=4 drop"]), ("x", &["proto=4 accept"])],
            &[],
            &[],
        ),
        (
            "one node is accepted",
            &[("base", &["saddr=172.16.35.4 accept", "proto=4 drop"])],
            &[],
            &["base 1"],
        ),
        (
            "returned before",
            &[("base", &["jump:x"]), ("x", &["proto=4 return", "proto=4 drop"])],
            &[],
            &[],
        ),
        ("everything is accepted", &[("base", &["accept", "proto=4 drop"])], &[], &[]),
        (
            "only established packets are",
            &[("base", &["ct accept", "proto=4 drop"])],
            &[],
            &["base 1"],
        ),
        (
            "a chain for marked packets accepts everything",
            &[("base", &["mark=1 jump:x", "proto=4 drop"]), ("x", &["accept"])],
            &[],
            &["base 1"],
        ),
        (
            "it does not come back",
            &[("base", &["goto:x", "proto=4 drop"]), ("x", &["counter"])],
            &[],
            &[],
        ),
        (
            "a policy without tracking, by interface",
            &[
                ("base", &["jump:fh", "mark=1 accept"]),
                ("fh", &["iif=eth0 goto:eth0", "iif=eth1 goto:eth1"]),
                ("eth0", &["jump:policy", "mark=1 notrack"]),
                ("eth1", &["proto=4 drop"]),
                ("policy", &["saddr@blocked counter drop"]),
            ],
            &[("blocked", &["172.16.34.0-172.16.34.255"])],
            &["policy 0"],
        ),
        (
            "maps of verdicts",
            &[
                ("base", &["iif^links", "saddr^hosts"]),
                ("x", &["proto=4 drop"]),
                ("y", &["proto=4 counter reject"]),
                ("z", &["proto=4 drop"]),
            ],
            &[
                ("links", &["eth0>jump:x", "cali1>jump:z"]),
                ("hosts", &["172.16.34.7>drop", "198.51.100.7>jump:z", "*>goto:y"]),
            ],
            &["base 1", "x 0", "y 0"],
        ),
        (
            "a map that cannot be read",
            &[("base", &["saddr^hosts", "proto=4 drop"])],
            &[],
            &["base 1"],
        ),
        (
            "a chain that calls itself",
            &[("base", &["proto=4 jump:base", "proto=4 drop"])],
            &[],
            &["base 1"],
        ),
        (
            "a chain that is not there",
            &[("base", &["proto=4 jump:x", "proto=4 drop"])],
            &[],
            &["base 1"],
        ),
    ];
    for (what, chains, sets, expected) in cases {
        assert_eq!(found(Direction::In, chains, sets), *expected, "{what}");
    }
}

/// What Felix always has about IPIP (`felix/rules/static.go`): hosts of the cluster are accepted.
#[test]
fn felix_own_rules_about_encapsulated_packets_do_not_count() {
    const IPTABLES: [&str; 2] = [
        "l4proto=4 xt:comment xt:set xt:addrtype counter accept",
        "l4proto=4 xt:comment counter drop",
    ];
    const NFTABLES: [&str; 2] =
        ["l4proto=4 saddr@cali40all-hosts-net fib counter accept", "l4proto=4 counter drop"];
    let both: &[&str] = &[NODE, OTHER];
    for (rules, hosts, expected) in [
        (&IPTABLES[..], both, &[][..]),
        (&NFTABLES, both, &[]),
        (&NFTABLES, &["172.16.34.0-172.16.35.255"], &[]),
        // Felix does not know a node.
        (&NFTABLES, &[NODE], &["cali-INPUT 1"]),
    ] {
        let chains: Chains<'_> = &[
            ("base", &["jump:cali-INPUT"]),
            ("cali-INPUT", rules),
            ("cali-wl-to-host", &["l4proto=4 drop"]),
        ];
        let chains = [chains, &[("other", &["iif=cali* goto:cali-wl-to-host"][..])]].concat();
        let sets: Chains<'_> = &[("cali40all-hosts-net", hosts)];
        assert_eq!(found(Direction::In, &chains, sets), expected, "{rules:?} {hosts:?}");
    }
}

#[test]
fn what_cannot_be_read_is_no_rule() {
    for (name, data) in [
        ("cmp", attributes([])),
        ("lookup", attributes([])),
        ("range", attributes([(2, number(7))])),
        ("payload", attributes([(1, vec![1]), (2, number(1)), (3, number(u32::MAX))])),
        ("bitwise", attributes([(1, number(3)), (2, number(99))])),
        ("immediate", attributes([(2, vec![0xff; 3])])),
        ("match", attributes([(1, vec![0xff])])),
        ("something new", attributes([(1, vec![0; 5])])),
    ] {
        let rule = vec![Expression { name: name.into(), data }];
        let rule = Rule::read(&rule, Direction::In);
        let ruleset =
            Ruleset { chains: [("base".to_owned(), vec![rule])].into(), sets: Sets::new() };
        let packets = Packets {
            direction: Direction::In,
            nodes: [NODE.parse().unwrap()].into(),
            links: BTreeSet::new(),
        };
        assert!(ruleset.concerning("base", true, &packets).is_empty(), "{name}");
    }
}
