//! Answers as BIRD gave them, and such as no BIRD gives.

use proptest::prelude::*;

use super::*;
use crate::sources::bird::reply::{Parsed, parse};

const ME: Ipv4Addr = Ipv4Addr::new(172, 16, 36, 10);

fn read(text: &str, within: &[Ipv4Net]) -> Found {
    let mut reader = Reader::new(Some(ME), within);
    let mut code = None;
    for raw in text.lines() {
        if let Parsed::Line(line) = parse(raw, code) {
            code = Some(line.code);
            reader.take(&line);
        }
    }
    reader.finish()
}

fn claims(text: &str) -> Vec<(String, String, String)> {
    let found = read(text, &[]);
    assert_eq!(found.problems, BTreeMap::new());
    flat(&found)
}

fn flat(found: &Found) -> Vec<(String, String, String)> {
    let flat = |((cidr, origin), claim): (&(Ipv4Net, Origin), &Claim)| {
        (cidr.to_string(), origin.to_string(), claim.node.to_string())
    };
    found.claims.iter().map(flat).collect()
}

fn expected(rows: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    rows.iter().map(|(a, b, c)| ((*a).into(), (*b).into(), (*c).into())).collect()
}

/// BIRD 2.0.12's own words.
const REAL: &str = "\
1007-Table master4:
 0.0.0.0/0            unicast [gw 21:04:45.458] * (200)
 \tvia 172.16.36.1 on eth0
1008-\tType: static univ
1007-10.20.42.0/26        unreachable [m_172_16_35_4 23:15:18.864 from 172.16.35.4] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.origin: IGP
 \tBGP.as_path: 
 \tBGP.next_hop: 172.16.35.4
 \tBGP.local_pref: 100
1007-10.20.105.192/26     blackhole [static1 21:04:45.458] * (200)
1008-\tType: static univ
1007-10.20.7.64/26        unicast [m_172_16_34_7 21:04:49.411 from 172.16.34.7] ! (100/?) [i]
 \tvia 172.16.36.1 on eth0
1008-\tType: BGP univ
1012-\tBGP.origin: IGP
 \tBGP.as_path: 
 \tBGP.next_hop: 172.16.34.7
 \tBGP.local_pref: 100
1007-172.16.36.0/24       unicast [direct1 21:04:45.458] * (240)
 \tdev eth0
1008-\tType: device univ
0000 
";

#[test]
fn the_next_hop_is_the_node_and_a_blackhole_is_ours() {
    assert_eq!(
        claims(REAL),
        expected(&[
            ("10.20.7.64/26", "m_172_16_34_7, next hop 172.16.34.7", "172.16.34.7"),
            ("10.20.42.0/26", "m_172_16_35_4, next hop 172.16.35.4", "172.16.35.4"),
            ("10.20.105.192/26", "static1, blackhole", "172.16.36.10"),
        ])
    );
}

#[test]
fn only_prefixes_inside_count() {
    let within = ["10.20.42.0/24".parse().unwrap()];
    let found = read(REAL, &within);
    assert_eq!(
        flat(&found),
        expected(&[("10.20.42.0/26", "m_172_16_35_4, next hop 172.16.35.4", "172.16.35.4")])
    );
    assert_eq!(found.understood, 5);
}

#[test]
fn what_is_ours_is_left_out_while_nobody_knows_who_we_are() {
    let mut reader = Reader::new(None, &[]);
    let text = "10.20.105.192/26     blackhole [static1 21:04:45.458] * (200)";
    reader.take(&Line { code: PATH, is_last: false, text });
    let found = reader.finish();
    assert_eq!((found.claims.len(), found.understood), (0, 1));
}

fn path_of(protocol: &str, mark: &str, next_hop: &str, local_pref: u32) -> String {
    format!(
        "unicast [{protocol} 21:04:49 from 172.16.34.1] {mark}(100/?) [i]\n \tvia 172.16.36.1 on \
         eth0\n1008-\tType: BGP univ\n1012-\tBGP.next_hop: {next_hop}\n \tBGP.local_pref: \
         {local_pref}\n"
    )
}

fn two_paths(second_pref: u32) -> String {
    let first = path_of("a", "* ", "172.16.35.4", 100);
    let second = path_of("b", "", "172.16.34.7", second_pref);
    format!("1007-10.20.42.0/26        {first}1007-                     {second}0000 \n")
}

#[test]
fn two_nodes_that_say_the_same_as_loudly_are_two_claims() {
    let both = expected(&[
        ("10.20.42.0/26", "a, next hop 172.16.35.4", "172.16.35.4"),
        ("10.20.42.0/26", "b, next hop 172.16.34.7", "172.16.34.7"),
    ]);
    assert_eq!(claims(&two_paths(100)), both);
    assert_eq!(claims(&two_paths(90)), both[..1]);
}

#[test]
fn who_claims_what_is_ours_is_told_too() {
    let other = path_of("a", "", "172.16.35.4", 100);
    let text = format!(
        "1007-10.20.105.192/26     blackhole [static1 21:04:45] * (200)\n1008-\tType: static \
         univ\n1007-                     {other}0000 \n"
    );
    assert_eq!(
        claims(&text),
        expected(&[
            ("10.20.105.192/26", "a, next hop 172.16.35.4", "172.16.35.4"),
            ("10.20.105.192/26", "static1, blackhole", "172.16.36.10"),
        ])
    );
}

#[test]
fn a_path_that_is_not_in_use_makes_no_claim() {
    let path = path_of("a", "", "172.16.35.4", 100);
    assert_eq!(claims(&format!("1007-10.20.42.0/26        {path}0000 \n")), []);
}

#[test]
fn bird_1_6_and_bird_3_are_understood() {
    let old = "\
1007-10.20.42.0/26      via 172.16.36.1 on eth0 [Mesh_1 2026-11-25 from 172.16.35.4] * (100/?) [i]
1008-\tType: BGP unicast univ
1012-\tBGP.origin: IGP
 \tBGP.as_path: 
 \tBGP.next_hop: 172.16.35.4
 \tBGP.local_pref: 100
0000 
";
    let new = "\
1007-Table master4:
 10.20.42.0/26        unicast [Mesh_1 21:04:49.411 from 172.16.35.4] * (100/?) [i]
 \tvia 172.16.36.1 on eth0
1008-\tpreference: 100
 \tsource: BGP
 \tbgp_origin: IGP
 \tbgp_next_hop: 172.16.35.4
 \tbgp_local_pref: 100
0000 
";
    for text in [old, new] {
        let one = [("10.20.42.0/26", "Mesh_1, next hop 172.16.35.4", "172.16.35.4")];
        assert_eq!(claims(text), expected(&one), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_a_problem_of_its_own() {
    let text = "\
1007-2001:db8::/64        unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1007-10.20.1.0/26         unicast a 21:04:49 * 100
1008-\tType: BGP univ
1007-10.20.2.0/26         unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1007-10.20.3.0/26         unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.next_hop: 2001:db8::1
1007-10.20.4.0/26         unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.next_hop: 172.16.300.1
1007-010.020.6.0/26       unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.next_hop: 172.16.35.4
1007-10.20.7.0/26         unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.next_hop: 172.016.35.4
1007-10.20.5.0/26         unicast [a 21:04:49] * (100) [i]
1008-\tType: BGP univ
1012-\tBGP.next_hop: 172.16.35.4
0000 
";
    let found = read(text, &[]);
    let one = [("10.20.5.0/26", "a, next hop 172.16.35.4", "172.16.35.4")];
    assert_eq!(flat(&found), expected(&one));
    let why = |origin: &str| found.problems[origin].as_str();
    assert_eq!(why("2001:db8::/64"), "no IPv4 prefix, skipped");
    assert!(why("10.20.1.0/26").starts_with("a path of it is not understood"));
    assert_eq!(why("10.20.2.0/26"), "it has no BGP next hop (a), skipped");
    assert_eq!(why("10.20.3.0/26"), "its next hop 2001:db8::1 is no IPv4 address (a), skipped");
    assert_eq!(why("10.20.4.0/26"), "its next hop is not understood: 172.16.300.1 (a), skipped");
    assert_eq!(why("010.020.6.0/26"), "has leading zeros; write 10.20.6.0/26; skipped");
    let zeros = "its next hop `172.016.35.4` has leading zeros; write 172.16.35.4 (a), skipped";
    assert_eq!(why("10.20.7.0/26"), zeros);
    let unclear: Vec<String> = found.unclear.iter().map(ToString::to_string).collect();
    assert_eq!(
        unclear,
        ["10.20.1.0/26", "10.20.2.0/26", "10.20.3.0/26", "10.20.4.0/26", "10.20.7.0/26"]
    );
}

#[test]
fn a_table_of_another_kind_makes_no_flood() {
    let text: String = (0..500).map(|n| format!("1007-2001:db8:{n:x}::/64 unicast\n")).collect();
    assert_eq!(read(&text, &[]).problems.len(), PROBLEMS);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(?s).*") {
        read(&text, &[]);
    }

    /// Real words in any order and mutilated, which gets further than noise.
    #[test]
    fn no_scrambled_answer_makes_it_panic(
        picks in proptest::collection::vec((0usize..20, 0usize..80), 0..40),
    ) {
        let lines: Vec<&str> = REAL.lines().collect();
        let cut = |(line, end): &(usize, usize)| {
            let line = lines[line % lines.len()];
            line.char_indices().nth(*end).map_or(line, |(at, _)| &line[..at])
        };
        let text: Vec<&str> = picks.iter().map(cut).collect();
        read(&text.join("\n"), &[]);
    }
}
