//! The nft table that marks what may be leased.
//!
//! ```text
//! chain postrouting { type filter hook postrouting priority 300;    # after every filter and NAT
//!     oifname "tunless0" jump judge
//!     oifname "cali*"    jump judge
//! }
//! chain judge {
//!     meta mark set meta mark & ~0x1800           # another program may have set the bits
//!     ct state established goto known
//!     ct state new meta l4proto udp ct status & 0x3078 == 0x8 goto unanswered
//! }
//! chain known {
//!     ip saddr @unleased return
//!     ip daddr @unleased return
//!     tcp flags & 0x17 != 0x12 ct expiration <= 2m return             # closing
//!     ct status & 0x2070 == 0 meta mark set meta mark | 0x1000 return
//!     ct status & 0x3070 != 0x20 return
//!     ct original ip daddr @unleased return       # the Service's own address
//!     meta l4proto udp ct status & 0x4 == 0 return
//!     meta mark set meta mark | 0x0800
//! }
//! chain unanswered {
//!     ip saddr @unleased return
//!     ip daddr @unleased return
//!     meta mark set meta mark | 0x1800
//! }
//! ```
//!
//! 0x2070 are `IPS_SRC_NAT`, `IPS_DST_NAT`, `IPS_SEQ_ADJUST` and `IPS_HELPER`
//! (`linux/netfilter/nf_conntrack_common.h`): flows whose packets conntrack has
//! to change, or whose payload it has to read. With Service leases, those of which it changes the
//! destination and nothing else (`IPS_DST_NAT`, 0x20) get a bit of their own, unless the entry is one
//! that lost a race and lives for a second (`IPS_NAT_CLASH`, 0x1000). UDP has to be `IPS_ASSURED` (0x4):
//! a question and its answer are no flow.
//!
//! Where UDP flows that get no answer are leased, they bear both bits. Each of their packets is NEW, and has
//! passed all chains; of a flow's first packet the entry is not confirmed (`IPS_CONFIRMED`, 0x8) before it is
//! past this chain. What conntrack translates for a Service is not among them: both bits do not tell a
//! translation by conntrack from one behind its back.
//!
//! A connection of TCP that is closing gets no lease: its last packets would leave leases behind, which
//! cost more than they save. It shows by the entry's timer, which is short again; so it is, at first, for
//! the packet that accepts a connection (SYN and ACK, 0x12 of 0x17).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use ipnet::Ipv4Net;
use nftables::helper::{
    DEFAULT_ARGS, DEFAULT_NFT, NftablesError, apply_ruleset_raw, get_current_ruleset_raw,
};
use serde_json::{Value, json};

/// The table's name, in the family `ip`.
pub const TABLE: &str = "tunless";
const SET: &str = "unleased";
/// After every filter and NAT of others: `NF_IP_PRI_LAST` is `i32::MAX`, and the
/// latest that others use is 300 (`NF_IP_PRI_SELINUX_LAST` is 225).
const PRIORITY: i32 = 300;
/// The conntrack status bits of a flow that is never leased.
pub(crate) const CHANGED_BY_CONNTRACK: u32 = 0x2070;
/// Those that tell a Service's flow, and what they are for one.
pub(crate) const SERVICE: (u32, u32) = (0x3070, 0x20);
/// Those that tell a flow without an answer from its first packet and from what conntrack changes, and what
/// they are for one: `IPS_CONFIRMED`.
const UNANSWERED: (u32, u32) = (0x3078, 0x8);
/// `IPS_ASSURED`.
pub(crate) const ASSURED: u32 = 0x4;
/// TCP's FIN, SYN, RST and ACK (RFC 9293 §3.1).
const CONTROL_OR_ACK: u32 = 0x17;
/// SYN and ACK: a connection is accepted.
const ACCEPTS: u32 = 0x12;

/// What the table has to say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MarkRules {
    /// The bit of `skb->mark`.
    pub mark: u32,
    /// All bits of the mark that the programs know: no other software's may reach them.
    pub cleared: u32,
    /// An entry of TCP that lasts no longer than this is closing, seconds; `None`: timers do not tell.
    pub closing: Option<u32>,
    /// The bit for flows that conntrack translates for a Service; `None`: no marks.
    pub service_mark: Option<u32>,
    /// The bits for UDP flows that get no answer; `None`: no marks.
    pub unanswered: Option<u32>,
    /// Interfaces with a granting hook, as nft writes them (`cali*`).
    pub interfaces: Vec<String>,
    /// Addresses whose flows are never marked; aggregated.
    pub unleased: BTreeSet<Ipv4Net>,
}

/// The table as the kernel has it, without the numbers that differ each time.
#[derive(Clone, PartialEq, Debug)]
pub struct Listing(Vec<Value>);

impl MarkRules {
    /// Replaces the table as a whole, in one transaction.
    ///
    /// # Errors
    /// If nft refuses: in its own words.
    pub fn apply(&self) -> Result<()> {
        run(&self.transaction(&self.fingerprint()), DEFAULT_ARGS)
            .context("making the nft table `ip tunless`")
    }

    /// Returns what a process records of a table that it made for these rules, so that the next one
    /// knows it again: a hash of the commands and of everything that nft lists of it.
    #[must_use]
    pub fn record(&self, listing: &Listing) -> String {
        let listed = Value::from(listing.0.clone()).to_string();
        format!("{:016x}", hash(&(self.transaction("") + &listed)))
    }

    /// The comment of a rule, which tells people and 0.1 for which rules the table was made. It
    /// proves nothing: a change of the table does not change it.
    fn fingerprint(&self) -> String {
        // Of the very commands: other words are another table.
        format!("tunless {:016x}", hash(&self.transaction("")))
    }

    fn transaction(&self, fingerprint: &str) -> String {
        let Self { mark, cleared, closing, service_mark, unanswered, interfaces, unleased } = self;
        let table = json!({"table": {"family": "ip", "name": TABLE}});
        let chain = |name: &str| json!({"family": "ip", "table": TABLE, "name": name});
        let rule = |chain: &str, expr: Value| json!({"add": {"rule": {"family": "ip", "table": TABLE, "chain": chain, "expr": expr}}});
        let compare = |op: &str, left: Value, right: Value| json!({"match": {"op": op, "left": left, "right": right}});
        let is = |left: Value, right: Value| compare("==", left, right);
        let meta = |key: &str| json!({"meta": {"key": key}});
        let set_mark = |operation: &str, operand: u32| json!({"mangle": {"key": meta("mark"), "value": {operation: [meta("mark"), operand]}}});
        let conntrack = |key: &str| json!({"ct": {"key": key}});
        let prefixes: Vec<Value> = unleased
            .iter()
            .map(|net| json!({"prefix": {"addr": net.addr(), "len": net.prefix_len()}}))
            .collect();

        let mut base = chain("postrouting");
        base["type"] = "filter".into();
        base["hook"] = "postrouting".into();
        base["prio"] = PRIORITY.into();
        base["policy"] = "accept".into();
        let mut set = json!({
            "family": "ip", "table": TABLE, "name": SET, "type": "ipv4_addr", "flags": ["interval"],
        });
        // nft takes no empty list.
        if !prefixes.is_empty() {
            set["elem"] = prefixes.into();
        }
        let bits = mark | cleared | service_mark.unwrap_or(0) | unanswered.unwrap_or(0);
        let mut clear = rule("judge", json!([set_mark("&", !bits)]));
        clear["add"]["rule"]["comment"] = fingerprint.into();
        let payload = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
        let done = json!({"return": null});
        let excluded = |chain: &str, address: Value| {
            rule(chain, json!([is(address, format!("@{SET}").into()), done]))
        };
        let state = |name: &str| compare("in", conntrack("state"), name.into());
        let is_udp = is(meta("l4proto"), "udp".into());
        let status = |op: &str, bits: u32, value: u32| {
            compare(op, json!({"&": [conntrack("status"), bits]}), value.into())
        };

        let mut commands = vec![
            // Deleting takes a table that is there.
            json!({"add": table}),
            json!({"delete": table}),
            json!({"add": table}),
            json!({"add": {"set": set}}),
            json!({"add": {"chain": chain("judge")}}),
            json!({"add": {"chain": chain("known")}}),
            json!({"add": {"chain": base}}),
            clear,
            rule("judge", json!([state("established"), {"goto": {"target": "known"}}])),
        ];
        // A lookup costs each packet, in an empty set, too.
        let ends: &[&str] = if unleased.is_empty() { &[] } else { &["saddr", "daddr"] };
        let exclude = |chain| ends.iter().map(move |field| excluded(chain, payload("ip", field)));
        commands.extend(exclude("known"));
        if let Some(mark) = unanswered {
            let (bits, value) = UNANSWERED;
            let is_alone = status("==", bits, value);
            let go = json!({"goto": {"target": "unanswered"}});
            commands.extend([
                json!({"add": {"chain": chain("unanswered")}}),
                rule("judge", json!([state("new"), is_udp, is_alone, go])),
            ]);
            commands.extend(exclude("unanswered"));
            commands.push(rule("unanswered", json!([set_mark("|", *mark)])));
        }
        if let Some(closing) = closing {
            let flags = json!({"&": [payload("tcp", "flags"), CONTROL_OR_ACK]});
            let is_no_answer = compare("!=", flags, ACCEPTS.into());
            let is_closing = compare("<=", conntrack("expiration"), (*closing).into());
            commands.push(rule("known", json!([is_no_answer, is_closing, done])));
        }
        let plain = status("==", CHANGED_BY_CONNTRACK, 0);
        commands.push(rule("known", json!([plain, set_mark("|", *mark), done])));
        if let Some(mark) = service_mark {
            let (bits, value) = SERVICE;
            commands.push(rule("known", json!([status("!=", bits, value), done])));
            if !unleased.is_empty() {
                let service = json!({"ct": {"key": "ip daddr", "dir": "original"}});
                commands.push(excluded("known", service));
            }
            commands.extend([
                rule("known", json!([is_udp, status("==", ASSURED, 0), done])),
                rule("known", json!([set_mark("|", *mark)])),
            ]);
        }
        commands.extend(interfaces.iter().map(|name| {
            let jump =
                json!([is(meta("oifname"), name.as_str().into()), {"jump": {"target": "judge"}}]);
            rule("postrouting", jump)
        }));
        json!({ "nftables": commands }).to_string()
    }
}

/// FNV-1a, 64 bits.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether this host could have the table, without making it.
///
/// # Errors
/// If nft is missing, or the kernel lacks nftables or conntrack.
pub fn check(rules: &MarkRules) -> Result<()> {
    run(&rules.transaction(&rules.fingerprint()), &["--check"])
}

/// The table, if there is one.
///
/// # Errors
/// If nft cannot be run.
pub fn list() -> Result<Option<Listing>> {
    match get_current_ruleset_raw(DEFAULT_NFT, ["list", "table", "ip", TABLE]) {
        Ok(text) => {
            let mut ruleset: Value = serde_json::from_str(&text).context("nft printed no JSON")?;
            let objects = ruleset["nftables"].as_array_mut().context("nft printed no list")?;
            objects.retain(|object| object.get("metainfo").is_none());
            for object in objects.iter_mut().filter_map(Value::as_object_mut) {
                for fields in object.values_mut().filter_map(Value::as_object_mut) {
                    fields.remove("handle");
                }
            }
            Ok(Some(Listing(std::mem::take(objects))))
        }
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => bail!(explain(error)),
    }
}

/// Removes the table; that there is none is fine. Returns whether there was one.
///
/// # Errors
/// If nft refuses.
pub fn remove() -> Result<bool> {
    match get_current_ruleset_raw(DEFAULT_NFT, ["list", "table", "ip", TABLE]) {
        Ok(_) => {}
        // Without nft there is no table of ours; one that may not be run is another matter.
        Err(NftablesError::NftExecution { inner, .. })
            if inner.kind() == std::io::ErrorKind::NotFound =>
        {
            return Ok(false);
        }
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => bail!(explain(error)),
    }
    let delete = json!({"nftables": [{"delete": {"table": {"family": "ip", "name": TABLE}}}]});
    run(&delete.to_string(), DEFAULT_ARGS).context("removing the nft table `ip tunless`")?;
    Ok(true)
}

fn run(commands: &str, arguments: &[&str]) -> Result<()> {
    match apply_ruleset_raw(commands, DEFAULT_NFT, arguments.iter().copied()) {
        Ok(_) => Ok(()),
        Err(error) => bail!(explain(error)),
    }
}

/// Whether nft says that there is no such table.
fn is_absent(error: &NftablesError) -> bool {
    matches!(error, NftablesError::NftFailed { stderr, .. } if stderr.contains("No such file"))
}

/// What nft said, not what it was asked.
fn explain(error: NftablesError) -> String {
    match error {
        NftablesError::NftExecution { program, inner } => {
            format!("{} cannot be run: {inner}; install nftables", program.to_string_lossy())
        }
        NftablesError::NftFailed { stderr, .. } => {
            let said = stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("nft failed");
            said.trim().to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> MarkRules {
        MarkRules {
            mark: 0x1000,
            cleared: 0,
            closing: None,
            service_mark: None,
            unanswered: None,
            interfaces: vec!["tunless0".into(), "cali*".into()],
            unleased: BTreeSet::from(["10.20.42.7/32".parse().unwrap()]),
        }
    }

    #[test]
    fn the_fingerprint_tells_rules_apart() {
        let mut other = rules();
        other.mark = 0x2000;
        assert_ne!(rules().fingerprint(), other.fingerprint());
        other = rules();
        other.unleased.clear();
        assert_ne!(rules().fingerprint(), other.fingerprint());
        assert_eq!(rules().fingerprint(), rules().fingerprint());
    }

    /// The programs know the second bit also while nothing is to be marked with it.
    #[test]
    fn every_bit_that_programs_know_is_cleared_first() {
        let service_mark = Some(0x800);
        for rules in [
            MarkRules { cleared: 0x800, ..rules() },
            MarkRules { service_mark, ..rules() },
            MarkRules { unanswered: Some(0x1800), ..rules() },
        ] {
            let commands: Value = serde_json::from_str(&rules.transaction("")).unwrap();
            let first = commands["nftables"].as_array().unwrap().iter();
            let first = first.map(|it| &it["add"]["rule"]).find(|it| it["chain"] == "judge");
            let mangle = &first.unwrap()["expr"][0]["mangle"]["value"]["&"];
            assert_eq!(mangle[1], !0x1800_u32, "{mangle}");
        }
    }

    #[test]
    fn the_record_tells_contents_apart() {
        let listing = |element: &str| {
            Listing(vec![json!({"set": {"name": SET, "elem": [element]}}), json!({"rule": {}})])
        };
        let record = rules().record(&listing("10.20.42.7"));
        assert_eq!(record, rules().record(&listing("10.20.42.7")));
        assert_ne!(record, rules().record(&listing("10.20.42.8")), "another content");
        let other = MarkRules { mark: 0x2000, ..rules() };
        assert_ne!(record, other.record(&listing("10.20.42.7")), "made for other rules");
    }

    #[test]
    fn the_transaction_replaces_the_table() {
        let commands: Value = serde_json::from_str(&rules().transaction("")).unwrap();
        let commands = commands["nftables"].as_array().unwrap();
        assert!(commands[0]["add"]["table"].is_object());
        assert!(commands[1]["delete"]["table"].is_object());
        assert!(commands[2]["add"]["table"].is_object());
        let (closing, service_mark, unanswered) = (Some(120), Some(0x800), Some(0x1800));
        for (count, rules) in [
            (7, rules()),
            (5, MarkRules { unleased: BTreeSet::new(), ..rules() }),
            (8, MarkRules { closing, ..rules() }),
            (11, MarkRules { service_mark, ..rules() }),
            (9, MarkRules { closing, service_mark, unleased: BTreeSet::new(), ..rules() }),
            (11, MarkRules { unanswered, ..rules() }),
            (7, MarkRules { unanswered, unleased: BTreeSet::new(), ..rules() }),
        ] {
            let commands: Value = serde_json::from_str(&rules.transaction("")).unwrap();
            let commands = commands["nftables"].as_array().unwrap().iter();
            let found = commands.filter(|command| command["add"]["rule"].is_object()).count();
            assert_eq!(found, count, "{rules:?}");
        }
    }
}
