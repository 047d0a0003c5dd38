//! Rules in words, by the number that the kernel gives them.

use std::collections::BTreeMap;

use anyhow::Result;

use super::host_rules::{HostRules, run};

/// A rule: family and table, chain, and the kernel's number.
type Key = (String, String, u64);

/// What each rule says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Texts(BTreeMap<Key, String>);

impl Texts {
    /// Reads those of this thread's namespace, which were written from `rules`.
    ///
    /// # Errors
    /// If nft fails.
    pub fn read(rules: &HostRules) -> Result<Self> {
        let listed = run("nft", &["--handle", "--stateless", "list", "ruleset"], None)?;
        let mut texts = Self::of_listing(&listed);
        for saved in &rules.saved {
            texts.replace_by(saved);
        }
        Ok(texts)
    }

    /// A rule's words.
    pub fn of(&self, table: &str, chain: &str, handle: u64) -> String {
        let key = (table.to_owned(), chain.to_owned(), handle);
        self.0.get(&key).cloned().unwrap_or_else(|| format!("rule {handle}"))
    }

    /// By what `nft --handle list ruleset` prints: a rule ends with its number in a comment.
    fn of_listing(listed: &str) -> Self {
        let mut texts = BTreeMap::new();
        let (mut table, mut chain) = (String::new(), None);
        let mut rule = String::new();
        for line in listed.lines() {
            if let Some(head) = line.strip_prefix("table ") {
                table = head.split(" {").next().unwrap_or_default().to_owned();
            } else if let Some(head) = line.strip_prefix("\tchain ") {
                chain = head.split(" {").next().map(str::to_owned);
                rule.clear();
            } else if line == "\t}" {
                chain = None;
            } else if let Some(chain) = &chain {
                let words = line.trim();
                if words.starts_with("type ") && words.contains(" hook ") {
                    continue;
                }
                if !rule.is_empty() {
                    rule.push(' ');
                }
                let Some((text, handle)) = words.rsplit_once("# handle ") else {
                    rule.push_str(words);
                    continue;
                };
                rule.push_str(text.trim_end());
                if let Ok(handle) = handle.parse() {
                    let key = (table.clone(), chain.clone(), handle);
                    texts.insert(key, std::mem::take(&mut rule));
                }
            }
        }
        Self(texts)
    }

    /// nft does not print the comments and the matches of xtables; what iptables-save prints has them. Both list
    /// the rules of a chain in the same order.
    fn replace_by(&mut self, saved: &str) {
        let mut table = String::new();
        let mut of_chain: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = format!("ip {name}");
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
                let key = (table.clone(), chain.to_owned());
                of_chain.entry(key).or_default().push(text.to_owned());
            }
        }
        let mut last = None;
        let mut number = 0;
        for ((table, chain, _), text) in &mut self.0 {
            let place = Some((table.clone(), chain.clone()));
            if place != last {
                (last, number) = (place, 0);
            }
            let saved = last.as_ref().and_then(|place| of_chain.get(place)?.get(number));
            number += 1;
            if let Some(saved) = saved {
                text.clone_from(saved);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_their_numbers() {
        let listed = "table ip filter { # handle 1\n\
                      \tchain cali-FORWARD { # handle 4\n\
                      \t\tiifname \"cali*\"  counter jump cali-tw-1 # handle 9\n\
                      \t\t counter drop # handle 12\n\t}\n\n\
                      \tchain FORWARD { # handle 2\n\
                      \t\ttype filter hook forward priority filter; policy accept;\n\
                      \t\t counter jump cali-FORWARD # handle 10\n\t}\n}\n\
                      table inet mine { # handle 2\n\
                      \tset s { # handle 3\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1 }\n\t}\n\
                      \tchain c { # handle 5\n\
                      \t\tnumgen random mod 2 vmap { 0 : goto a,\n\
                      \t\t\t1 : goto b } # handle 6\n\t}\n}\n";
        let mut texts = Texts::of_listing(listed);
        assert_eq!(texts.of("ip filter", "FORWARD", 10), "counter jump cali-FORWARD");
        assert_eq!(
            texts.of("inet mine", "c", 6),
            "numgen random mod 2 vmap { 0 : goto a, 1 : goto b }"
        );
        assert_eq!(texts.of("inet mine", "c", 7), "rule 7");
        texts.replace_by(
            "*filter\n:FORWARD ACCEPT [0:0]\n:cali-FORWARD - [0:0]\n\
             -A FORWARD -m comment --comment \"cali:x\" -j cali-FORWARD\n\
             -A cali-FORWARD -i cali+ -j cali-tw-1\n\
             -A cali-FORWARD -m comment --comment \"no policy\" -j DROP\nCOMMIT\n",
        );
        let comment = "-m comment --comment \"cali:x\" -j cali-FORWARD";
        assert_eq!(texts.of("ip filter", "FORWARD", 10), comment);
        assert_eq!(texts.of("ip filter", "cali-FORWARD", 9), "-i cali+ -j cali-tw-1");
        let drop = "-m comment --comment \"no policy\" -j DROP";
        assert_eq!(texts.of("ip filter", "cali-FORWARD", 12), drop);
    }
}
