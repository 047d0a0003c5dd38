//! What programs of others on our hooks mean. Pure.

use std::{collections::BTreeMap, fmt};

use super::super::super::{Check, Row, Verdict};
use crate::output;

/// A side of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// Before the kernel has made a packet of what arrived.
    Xdp,
    /// TC, what arrives: TCX first, then clsact.
    Ingress,
    /// TC, what leaves.
    Egress,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "XDP",
            Self::Ingress => "TC ingress",
            Self::Egress => "TC egress",
        })
    }
}

/// A hook, with what is on it in the order in which packets meet it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// The interface's name.
    pub interface: String,
    /// Its side.
    pub side: Side,
    /// Programs and filters.
    pub programs: Vec<On>,
}

/// A program or a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct On {
    /// The program's number; `None`: a filter without a program.
    pub id: Option<u32>,
    /// The program's name, the filter's where that cannot be read, or the filter's kind; may be empty.
    pub name: String,
    /// Whose it is.
    pub whose: Whose,
}

/// Whose a program is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The daemon attached it here.
    Ours,
    /// It is one of tunless, but not one that this daemon attached here.
    Twin,
    /// Of others.
    Other {
        /// It is proven to pass every packet on.
        passes_on: bool,
    },
}

/// What a foreign program means: rows that say the same of several interfaces become one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    verdict: Verdict,
    side: Side,
    name: String,
    /// The program of ours that it concerns.
    ours: String,
    sort: Sort,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Twin,
    Before,
    PassesOn,
    Behind,
}

/// The interfaces where it is, with the program's number there.
type Places<'a> = BTreeMap<&'a str, Option<u32>>;

/// A row for each foreign program, or one about all hooks.
pub fn rows(hooks: &[Hook]) -> Vec<Row> {
    let mut found: BTreeMap<Finding, Places<'_>> = BTreeMap::new();
    for hook in hooks {
        for (at, on) in hook.programs.iter().enumerate() {
            let Some(finding) = finding(hooks, hook, at, on) else { continue };
            // A filter may have several entries.
            found.entry(finding).or_default().entry(&hook.interface).or_insert(on.id);
        }
    }
    if found.is_empty() {
        let hooks = output::count(hooks.len(), "hook");
        return vec![Row::pass(Check::Hooks, format!("no program of others on {hooks}"))];
    }
    found.iter().map(|(finding, places)| row(finding, places)).collect()
}

fn finding(hooks: &[Hook], hook: &Hook, at: usize, on: &On) -> Option<Finding> {
    let (verdict, sort, ours) = match on.whose {
        Whose::Ours => return None,
        Whose::Twin => (Verdict::Fail, Sort::Twin, String::new()),
        Whose::Other { passes_on } => match behind(hooks, hook, at) {
            Some(ours) if passes_on => (Verdict::Pass, Sort::PassesOn, ours),
            Some(ours) => (Verdict::Warn, Sort::Before, ours),
            None => (Verdict::Pass, Sort::Behind, String::new()),
        },
    };
    Some(Finding { verdict, side: hook.side, name: on.name.clone(), ours, sort })
}

/// The first program of ours that packets meet behind this place of a hook.
fn behind(hooks: &[Hook], hook: &Hook, at: usize) -> Option<String> {
    let first = |programs: &[On]| {
        let mut ours = programs.iter().filter(|on| on.whose == Whose::Ours);
        ours.next().map(|on| on.name.clone())
    };
    let here = first(&hook.programs[at + 1..]);
    if here.is_some() || hook.side != Side::Xdp {
        return here;
    }
    let is_next = |it: &&Hook| it.side == Side::Ingress && it.interface == hook.interface;
    hooks.iter().find(is_next).and_then(|next| first(&next.programs))
}

fn row(finding: &Finding, places: &Places<'_>) -> Row {
    let Finding { verdict, side, name, ours, sort } = finding;
    let (interface, id) = places.first_key_value().map_or(("", None), |(name, id)| (*name, *id));
    let who = match (name.is_empty(), id) {
        (false, Some(id)) => format!("program `{name}` ({id})"),
        (true, Some(id)) => format!("program {id} (without a name)"),
        (false, None) => format!("a filter of the kind `{name}`"),
        (true, None) => "a filter".to_owned(),
    };
    let place = match places.len() {
        0 | 1 => format!("on {interface} ({side})"),
        count => format!("on {interface} and {} more ({side})", count - 1),
    };
    let what = match sort {
        Sort::Twin => format!(
            "{who} {place} is one of tunless, but this daemon has not attached it: packets pass \
             through it as well, and it may take them by other maps"
        ),
        Sort::Before => format!("{who} {place} comes before {ours} and may take packets from it"),
        Sort::PassesOn => format!("{who} {place} comes before {ours} and passes every packet on"),
        Sort::Behind => format!("{who} {place} comes behind ours: it sees what these pass on"),
    };
    let row = Row::new(Check::Hooks, *verdict, interface, what);
    match sort {
        Sort::Twin => row.remedy(format!(
            "`bpftool net show dev {interface}` shows it; where another tunless attached it, \
             `tunless detach --bpffs DIRECTORY` with that one's directory removes it, else \
             `bpftool net detach` or `tc filter del`"
        )),
        Sort::Before => row.remedy(format!(
            "find out whose it is (`bpftool prog show{}`): if packets are missing, see whether they \
             arrive without it",
            id.map_or_else(String::new, |id| format!(" id {id}"))
        )),
        Sort::PassesOn | Sort::Behind => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(id: u32, name: &str, whose: Whose) -> On {
        On { id: Some(id), name: name.to_owned(), whose }
    }

    fn ours(name: &str) -> On {
        on(1, name, Whose::Ours)
    }

    fn other(name: &str, passes_on: bool) -> On {
        on(70, name, Whose::Other { passes_on })
    }

    fn hook(interface: &str, side: Side, programs: Vec<On>) -> Hook {
        Hook { interface: interface.to_owned(), side, programs }
    }

    fn one(hooks: &[Hook]) -> Row {
        let mut rows = rows(hooks);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    #[test]
    fn ours_alone_pass() {
        let hooks = [
            hook("eth0", Side::Xdp, vec![]),
            hook("eth0", Side::Ingress, vec![ours("decap_tc")]),
            hook("tunless0", Side::Egress, vec![ours("encap_host")]),
        ];
        let row = one(&hooks);
        assert_eq!(
            (row.verdict, row.what.as_str()),
            (Verdict::Pass, "no program of others on 3 hooks")
        );
    }

    #[test]
    fn what_comes_before_ours_may_take_packets() {
        let row =
            one(&[hook("eth0", Side::Ingress, vec![other("police", false), ours("decap_tc")])]);
        assert_eq!((row.verdict, row.subject.as_str()), (Verdict::Warn, "eth0"));
        assert_eq!(
            row.what,
            "program `police` (70) on eth0 (TC ingress) comes before decap_tc and may take packets \
             from it"
        );
        assert!(row.remedy.unwrap().contains("bpftool prog show id 70"));
    }

    #[test]
    fn what_is_proven_to_pass_packets_on_and_what_comes_behind_pass() {
        for (programs, part) in [
            (vec![other("watch", true), ours("decap_tc")], "before decap_tc and passes every"),
            (vec![ours("decap_tc"), other("watch", false)], "comes behind ours"),
        ] {
            let row = one(&[hook("eth0", Side::Ingress, programs)]);
            assert_eq!(row.verdict, Verdict::Pass);
            assert!(row.what.contains("`watch` (70)") && row.what.contains(part), "{}", row.what);
            assert_eq!(row.remedy, None);
        }
    }

    #[test]
    fn xdp_of_others_comes_before_tc() {
        let row = one(&[
            hook("eth0", Side::Xdp, vec![other("ddos", false)]),
            hook("eth0", Side::Ingress, vec![ours("decap_tc")]),
        ]);
        assert_eq!(row.verdict, Verdict::Warn);
        assert!(
            row.what.contains("`ddos` (70) on eth0 (XDP) comes before decap_tc"),
            "{}",
            row.what
        );
        // Of another interface.
        let row = one(&[
            hook("eth1", Side::Xdp, vec![other("ddos", false)]),
            hook("eth0", Side::Ingress, vec![ours("decap_tc")]),
        ]);
        assert_eq!(row.verdict, Verdict::Pass);
    }

    #[test]
    fn a_second_one_of_ours_fails_wherever_it_is() {
        let twin = || on(9, "decap_tc", Whose::Twin);
        for programs in [vec![twin(), ours("decap_tc")], vec![ours("decap_tc"), twin()]] {
            let row = one(&[hook("eth0", Side::Ingress, programs)]);
            assert_eq!(row.verdict, Verdict::Fail);
            assert!(row.what.contains("`decap_tc` (9) on eth0 (TC ingress) is one of tunless"));
        }
    }

    #[test]
    fn the_same_on_many_pods_is_one_row() {
        let pod = |name: &str| {
            hook(name, Side::Ingress, vec![other("flow_parse", false), ours("encap_pod")])
        };
        let row = one(&[pod("cali1"), pod("cali2"), pod("cali3")]);
        assert_eq!(row.subject, "cali1");
        assert!(row.what.contains("on cali1 and 2 more (TC ingress)"), "{}", row.what);
    }

    #[test]
    fn filters_without_a_program_are_named_by_their_kind() {
        let filter = On { id: None, name: "u32".into(), whose: Whose::Other { passes_on: false } };
        let row =
            one(&[hook("eth0", Side::Ingress, vec![filter.clone(), filter, ours("decap_tc")])]);
        assert!(row.what.starts_with("a filter of the kind `u32` on eth0 (TC"), "{}", row.what);
        assert_eq!(row.verdict, Verdict::Warn);
    }
}
