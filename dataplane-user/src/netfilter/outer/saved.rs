//! The same rules as iptables-legacy keeps them: what `iptables-legacy-save` prints.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::{
    OuterRules, Packets, Ruleset, Verdict,
    packet::{Byte, Direction, Operation, Value},
    rule::{Condition, Rule},
};

/// The chains that the kernel calls itself for packets to and from this host.
const BASES: [(&str, Direction); 4] = [
    ("PREROUTING", Direction::In),
    ("INPUT", Direction::In),
    ("OUTPUT", Direction::Out),
    ("POSTROUTING", Direction::Out),
];

/// Returns the chains of a table with rules about encapsulated packets. `packets`: those of a
/// direction.
#[must_use]
pub fn concerning(
    table: &str,
    saved: &str,
    packets: impl Fn(Direction) -> Packets,
) -> BTreeSet<OuterRules> {
    let mut policies: BTreeMap<&str, &str> = BTreeMap::new();
    let mut chains: BTreeMap<&str, Vec<Vec<String>>> = BTreeMap::new();
    for line in saved.lines() {
        if let Some((chain, rest)) = line.strip_prefix(':').and_then(|it| it.split_once(' ')) {
            chains.entry(chain).or_default();
            policies.insert(chain, rest.split(' ').next().unwrap_or_default());
        } else if let Some((chain, rule)) =
            line.strip_prefix("-A ").and_then(|it| it.split_once(' '))
        {
            chains.entry(chain).or_default().push(words(rule));
        }
    }
    let mut found: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (base, direction) in BASES.into_iter().filter(|(base, _)| chains.contains_key(base)) {
        let is_chain = |name: &str| chains.contains_key(name);
        let read = |rules: &Vec<Vec<String>>| -> Vec<Rule> {
            rules.iter().map(|rule| read(rule, direction, is_chain)).collect()
        };
        let ruleset = Ruleset {
            chains: chains.iter().map(|(name, rules)| ((*name).to_owned(), read(rules))).collect(),
            ..Ruleset::default()
        };
        let drops = policies.get(base) == Some(&"DROP");
        for (chain, place) in ruleset.concerning(base, drops, &packets(direction)) {
            found.entry(chain).or_default().insert(place);
        }
    }
    let table = format!("iptables-legacy {table}");
    let rules = |(chain, places): (String, BTreeSet<usize>)| OuterRules {
        table: table.clone(),
        chain,
        rules: places.len(),
    };
    found.into_iter().map(rules).collect()
}

/// The words of a line; one in quotes may have blanks in it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for letter in line.chars().chain([' ']) {
        match letter {
            _ if is_escaped => {
                word.push(letter);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' if !is_quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(letter),
        }
    }
    words
}

/// Reads a rule. `is_chain`: whether a target is a chain.
fn read(words: &[String], direction: Direction, is_chain: impl Fn(&str) -> bool) -> Rule {
    let mut rule = Rule::default();
    let mut words = words.iter().map(String::as_str);
    let mut operation = Operation::Equal;
    while let Some(word) = words.next() {
        if word == "!" {
            operation = Operation::NotEqual;
            continue;
        }
        match word {
            "-s" => rule.add(address(direction, 12, words.next(), operation)),
            "-d" => rule.add(address(direction, 16, words.next(), operation)),
            "-p" => rule.add(protocol(words.next(), operation)),
            "-i" | "-o" if (word == "-i") == (direction == Direction::In) => {
                rule.add(
                    words.next().map(|name| Condition::Compare(Value::Link, operation, link(name))),
                );
            }
            "-i" | "-o" | "-f" => rule.add(None),
            "-m" => rule.ask(words.next().unwrap_or_default()),
            "-g" => rule.verdict = words.next().map(|chain| Verdict::Goto(chain.to_owned())),
            "-j" => match words.next().unwrap_or_default() {
                "ACCEPT" => rule.verdict = Some(Verdict::Accept),
                "RETURN" => rule.verdict = Some(Verdict::Return),
                "DROP" | "QUEUE" => {
                    rule.acts = true;
                    rule.verdict = Some(Verdict::Stop);
                }
                "LOG" | "NFLOG" | "TRACE" => {}
                chain if is_chain(chain) => rule.verdict = Some(Verdict::Jump(chain.to_owned())),
                _ => rule.acts = true,
            },
            // An option of a match or target.
            _ => {}
        }
        operation = Operation::Equal;
    }
    rule
}

/// `-s 10.0.0.0/8`: the address at this place of the header.
fn address(
    direction: Direction,
    offset: usize,
    net: Option<&str>,
    operation: Operation,
) -> Option<Condition> {
    let net: Ipv4Net = match net? {
        net if net.contains('/') => net.parse().ok()?,
        address => Ipv4Net::from(address.parse::<std::net::Ipv4Addr>().ok()?),
    };
    let bytes = direction.header(offset, 4).into_iter().zip(net.netmask().octets());
    let bytes = bytes.map(|(byte, mask)| byte.masked(mask)).collect();
    Some(Condition::Compare(Value::Bytes(bytes), operation, net.network().octets().to_vec()))
}

/// `-p ipencap`: by its name in `/etc/protocols`, or by number.
fn protocol(name: Option<&str>, operation: Operation) -> Option<Condition> {
    /// None that is in use (RFC 5237 §3).
    const OTHER: u8 = 255;
    let number = match name? {
        "all" => return None,
        "ipencap" => 4,
        name => name.parse().unwrap_or(OTHER),
    };
    Some(Condition::Compare(Value::Bytes(vec![Byte::Protocol]), operation, vec![number]))
}

/// A link's name, or its beginning (`cali+`).
fn link(name: &str) -> Vec<u8> {
    match name.strip_suffix('+') {
        Some(beginning) => beginning.into(),
        None => [name.as_bytes(), &[0]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_as_those_of_nftables() {
        let packets = |direction| Packets {
            direction,
            nodes: ["172.16.35.4".parse().unwrap()].into(),
            links: ["eth0".to_owned()].into(),
        };
        for (rule, counts) in [
            ("-p ipencap -j DROP", true),
            ("-p 4 -j REJECT --reject-with icmp-port-unreachable", true),
            ("-s 172.16.35.4/32 -j NOTRACK", true),
            ("-s 172.16.0.0/16 -i eth+ -j DROP", true),
            ("-s 172.16.35.4/32 -m comment --comment \"a \\\" b -p udp\" -j DROP", true),
            ("-s 172.16.35.4/32 -j x", true),
            ("-s 172.16.35.4/32 -g x", true),
            ("-p ipencap ! -s 10.0.0.0/8 -j DROP", true),
            ("! -s 10.0.0.0/8 -j DROP", false),
            ("-p ipencap ! -s 172.16.0.0/16 -j DROP", false),
            ("-s 172.16.35.4/32 -p tcp -m tcp --dport 9 -j DROP", false),
            ("-s 172.16.35.4/32 -i cali+ -j DROP", false),
            ("-s 172.16.35.4/32 -i eth1 -j DROP", false),
            ("-d 172.16.35.4/32 -j DROP", false),
            ("-p ipencap -m set --match-set x src -j DROP", false),
            ("-p ipencap -j ACCEPT", false),
            ("-p ipencap -j LOG", false),
            ("-p ipencap -j y", false),
            ("-j x", false),
        ] {
            let saved = format!(
                "*filter\n:INPUT ACCEPT [0:0]\n:x - [0:0]\n:y - [0:0]\n-A INPUT {rule}\n-A x -j DROP\nCOMMIT\n"
            );
            let found = concerning("filter", &saved, packets);
            assert_eq!(!found.is_empty(), counts, "{rule}");
            assert!(found.iter().all(|it| it.table == "iptables-legacy filter" && it.rules == 1));
        }
        // Felix's own, and a node that it does not accept.
        let felix = |hosts: &str| {
            format!(
                "*filter\n:INPUT DROP [0:0]\n:cali-INPUT - [0:0]\n-A INPUT -j cali-INPUT\n\
                 -A cali-INPUT -p ipencap {hosts} -m addrtype --dst-type LOCAL -j ACCEPT\n\
                 -A cali-INPUT -p ipencap -j DROP\nCOMMIT\n"
            )
        };
        let of = |hosts: &str| concerning("filter", &felix(hosts), packets).len();
        assert_eq!(of("-m set --match-set cali40all-hosts-net src"), 0);
        assert_eq!((of("-s 172.16.35.4/32"), of("-s 172.16.35.5/32")), (0, 1));
        assert!(concerning("filter", "", packets).is_empty());
        assert!(
            concerning("filter", ":\n-A\n-A INPUT\n-A INPUT -s\n-A INPUT -j", packets).is_empty()
        );
    }
}
