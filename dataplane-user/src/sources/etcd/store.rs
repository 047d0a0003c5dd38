//! Objects in, reports out.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::ranges::{Key, Kind, Range};
use crate::{
    config::sources::Borrowed,
    sources::{
        Origin, Report,
        calico::{
            Affinity, Aspect, Block, CalicoNode, Pool, Resolver, Understood, block::cidr_of_key,
        },
        error::{Malformed, SourceError},
        reads::{Owners, Pace, Reads, Size},
    },
};

/// What etcd holds, as far as routes follow from it.
///
/// A value that cannot be understood changes nothing: the last valid one of its key
/// stays active until there is another, or the key is deleted.
pub struct Store {
    prefix: String,
    resolver: Resolver,
    /// Every key there is, understood or not.
    keys: BTreeSet<Origin>,
    /// Those with a valid value, which is active.
    valid: BTreeSet<Origin>,
    /// How the file wants borrowed addresses to be learnt.
    borrowed: Borrowed,
    /// Where it leaves that to the size of the cluster.
    size: Option<Size>,
    /// Who says whose a block is.
    owners: Owners,
    /// Whether affinities may not be read.
    are_affinities_forbidden: bool,
    reported: Option<Reads>,
}

impl Store {
    /// Makes an empty store.
    pub fn new(prefix: &str, own_name: &str, borrowed: Borrowed) -> Self {
        Self {
            prefix: prefix.to_owned(),
            resolver: Resolver::new(own_name),
            keys: BTreeSet::new(),
            valid: BTreeSet::new(),
            borrowed,
            size: None,
            owners: Owners::Blocks,
            are_affinities_forbidden: false,
            reported: None,
        }
    }

    /// Begins a list, and notes with the first of its ranges how large the cluster is. What is
    /// listed after the nodes counts by that.
    pub fn listed(&mut self, kind: Kind) {
        if kind == Kind::Node {
            self.are_affinities_forbidden = false;
            self.owners = self.wanted_owners();
        }
    }

    /// Notes that affinities may not be read; returns whether it goes without them.
    pub fn without_affinities(&mut self) -> bool {
        self.are_affinities_forbidden = true;
        self.owners = self.wanted_owners();
        self.owners == Owners::Blocks
    }

    /// How blocks are read; `None`: not at all.
    pub fn pace(&mut self) -> Option<Pace> {
        match self.borrowed {
            Borrowed::Off => None,
            Borrowed::Followed => Some(Pace::Followed),
            Borrowed::Polled => Some(Pace::Polled),
            Borrowed::Auto if self.are_affinities_forbidden => Some(Pace::Followed),
            Borrowed::Auto => {
                let size = Size::of(self.resolver.nodes(), self.size);
                self.size = Some(size);
                Some(size.pace())
            }
        }
    }

    fn wanted_owners(&mut self) -> Owners {
        match self.pace() {
            Some(Pace::Followed) => Owners::Blocks,
            Some(Pace::Polled) | None => Owners::Affinities,
        }
    }

    /// Whether blocks are to say whose they are, and do not yet: all has to be listed again.
    pub fn wants_list(&mut self) -> bool {
        self.owners == Owners::Affinities && self.wanted_owners() == Owners::Blocks
    }

    /// Lets affinities say whose the blocks are, if that is wanted now; returns whether it was.
    pub fn leave_blocks(&mut self) -> bool {
        if self.owners == Owners::Affinities || self.wanted_owners() == Owners::Blocks {
            return false;
        }
        self.owners = Owners::Affinities;
        for origin in self.keys.clone() {
            match Key::parse(&self.prefix, &origin) {
                Key::Affinity(_) => {
                    let affinity = self.resolver.affinity(&origin).cloned();
                    self.set_affinity(&origin, affinity);
                }
                Key::Block(_) => {
                    let block = self.resolver.block(&origin).cloned();
                    self.set_block(&origin, block);
                }
                Key::Node(_) | Key::Pool | Key::Foreign => {}
            }
        }
        true
    }

    fn set_affinity(&mut self, origin: &Origin, affinity: Option<Affinity>) {
        let (checks, owns) = match self.owners {
            Owners::Blocks => (affinity, None),
            Owners::Affinities => (None, affinity),
        };
        self.resolver.set_affinity(origin.clone(), checks);
        self.resolver.set_block(origin.clone(), owns.map(Block::from));
    }

    fn set_block(&mut self, origin: &Origin, block: Option<Block>) {
        // What is polled is too old to say whose the block is.
        let block = block.map(|block| match self.owners {
            Owners::Blocks => block,
            Owners::Affinities => Block { host: None, ..block },
        });
        self.resolver.set_block(origin.clone(), block);
    }

    /// Takes in the value of a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let origin = self.origin(key);
        self.keys.insert(origin.clone());
        let problem = match self.understand(&origin, value) {
            Ok(doubt) => {
                self.valid.insert(origin.clone());
                doubt.map(|doubt| doubt.to_string())
            }
            Err(why) if self.valid.contains(&origin) => {
                Some(format!("{why}; its last valid version stays active"))
            }
            Err(why) => Some(format!("{why}; skipped")),
        };
        self.resolver.set_problem(origin, Aspect::Object, problem);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let origin = self.origin(key);
        self.forget(&origin);
    }

    /// Removes all other keys; of a range, if one is named.
    pub fn keep_only(&mut self, range: Option<&Range>, keys: &HashSet<Vec<u8>>) {
        let kept: HashSet<String> =
            keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let is_meant = |key: &&Origin| range.is_none_or(|range| key.starts_with(&range.start));
        let known = self.keys.iter().filter(is_meant);
        let gone: Vec<Origin> = known.filter(|key| !kept.contains(key.as_ref())).cloned().collect();
        for origin in gone {
            self.forget(&origin);
        }
    }

    /// Notes which ranges may not be read, of those that routes can do without.
    pub fn set_unreadable(&mut self, unreadable: &[(Range, SourceError)]) {
        for range in Range::all(&self.prefix) {
            let error = unreadable.iter().find(|(other, _)| *other == range);
            let problem = error.map(|(_, error)| format!("{}; skipped", error.why()));
            let origin = Origin::from(range.start.as_str());
            self.resolver.set_problem(origin, Aspect::Object, problem);
        }
    }

    /// Reports everything.
    pub fn snapshot(&mut self) -> Vec<Report> {
        let reads = self.new_reads();
        reads.into_iter().chain(self.resolver.report_all()).collect()
    }

    /// Reports what has changed since this or [`Store::snapshot`] was last called.
    pub fn take_reports(&mut self) -> Vec<Report> {
        let reads = self.new_reads();
        reads.into_iter().chain(self.resolver.take_reports()).collect()
    }

    fn new_reads(&mut self) -> Option<Report> {
        let borrowed = match (self.owners, self.borrowed) {
            (Owners::Blocks, _) => Some(Pace::Followed),
            (Owners::Affinities, Borrowed::Off) => None,
            (Owners::Affinities, _) => Some(Pace::Polled),
        };
        let reads = Reads { nodes: Pace::Followed, borrowed };
        (self.reported.replace(reads) != Some(reads)).then_some(Report::Reads(reads))
    }

    /// The key for people; the same one each time.
    fn origin(&self, key: &[u8]) -> Origin {
        let text = String::from_utf8_lossy(key);
        self.keys.get(text.as_ref()).map_or_else(|| Arc::from(text.as_ref()), Origin::clone)
    }

    fn forget(&mut self, origin: &Origin) {
        self.keys.remove(origin);
        self.valid.remove(origin);
        self.resolver.set_problem(origin.clone(), Aspect::Object, None);
        match Key::parse(&self.prefix, origin) {
            Key::Block(_) => self.resolver.set_block(origin.clone(), None),
            Key::Node(name) => self.resolver.set_node(name, None),
            Key::Pool => self.resolver.set_pool(origin.clone(), None),
            Key::Affinity(_) => self.set_affinity(origin, None),
            Key::Foreign => {}
        }
    }

    /// Takes in a value; returns what in it does not count.
    fn understand(
        &mut self,
        origin: &Origin,
        value: &[u8],
    ) -> Result<Option<Malformed>, Malformed> {
        match Key::parse(&self.prefix, origin) {
            Key::Block(name) => {
                let Understood { object: block, doubt } = Block::from_json(value)?;
                if let Some(Block { cidr, .. }) = &block
                    && cidr_of_key(name) != Some(*cidr)
                {
                    return Err(Malformed::new(format!("is about {cidr}, which its key is not")));
                }
                self.set_block(origin, block);
                return Ok(doubt);
            }
            Key::Node(name) => {
                let Understood { object: node, doubt } = CalicoNode::from_json(value)?;
                self.resolver.set_node(name, Some(node));
                return Ok(doubt);
            }
            Key::Pool => self.resolver.set_pool(origin.clone(), Pool::from_json(value)?),
            Key::Affinity(key) => {
                self.set_affinity(origin, Affinity::from_etcd(key, value)?);
            }
            Key::Foreign => return Err(Malformed::new("is no key of Calico's")),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{Change, error::Endpoint};

    const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.20.42.0-26";
    const NODE: &str = "/calico/resources/v3/projectcalico.org/nodes/b";
    const POOL: &str = "/calico/resources/v3/projectcalico.org/ippools/p";

    fn block(host: &str) -> String {
        format!(r#"{{"cidr":"10.20.42.0/26","affinity":"host:{host}"}}"#)
    }

    fn store() -> Store {
        let mut store = Store::new("/calico", "me", Borrowed::Auto);
        let node = r#"{"spec":{"bgp":{"ipv4Address":"172.16.35.4/24"}}}"#;
        store.put(NODE.as_bytes(), node.as_bytes());
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        store
    }

    /// `key problem` for problems, `prefix node` for claims.
    #[expect(clippy::needless_pass_by_value, reason = "reads best where it is used")]
    fn texts(reports: Vec<Report>) -> Vec<String> {
        let claim = |change: &Change| match change.claim {
            Some(claim) => format!("{} {}", change.cidr, claim.node),
            None => format!("{} gone", change.cidr),
        };
        let problem = |origin: &Origin, text: Option<&str>| {
            format!("{origin} {}", text.unwrap_or("is well again"))
        };
        reports
            .iter()
            .flat_map(|report| match report {
                Report::Snapshot { claims, problems } => {
                    let problems = problems.iter().map(|(key, text)| problem(key, Some(text)));
                    claims.iter().map(claim).chain(problems).collect::<Vec<_>>()
                }
                Report::Changes(changes) => changes.iter().map(claim).collect(),
                Report::Problem(key, text) => vec![problem(key, text.as_deref())],
                // No test here is about it.
                Report::OwnNode(_)
                | Report::Names(_)
                | Report::Servers(_)
                | Report::Backends(_)
                | Report::Reads(_) => Vec::new(),
                Report::Problems(_) | Report::Down(_) | Report::Up => {
                    panic!("not said here: {report:?}")
                }
            })
            .collect()
    }

    #[test]
    fn a_value_that_cannot_be_understood_takes_nothing_away() {
        let mut store = store();
        assert_eq!(texts(store.snapshot()), ["10.20.42.0/26 172.16.35.4"]);
        assert_eq!(texts(store.take_reports()), [""; 0]);
        for (key, garbage) in [(BLOCK, "{"), (NODE, "[]"), (BLOCK, ""), (POOL, "?")] {
            store.put(key.as_bytes(), garbage.as_bytes());
            let texts = texts(store.take_reports());
            assert_eq!(texts.len(), 1, "{texts:?}");
            let instead =
                if key == POOL { "; skipped" } else { "; its last valid version stays active" };
            assert!(texts[0].starts_with(key) && texts[0].ends_with(instead), "{texts:?}");
        }
        let whole = texts(store.snapshot());
        assert_eq!(whole[0], "10.20.42.0/26 172.16.35.4");
        assert_eq!(whole.len(), 4, "{whole:?}");
        // Good again, or gone.
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        assert_eq!(texts(store.take_reports()), [format!("{BLOCK} is well again")]);
        store.delete(POOL.as_bytes());
        assert_eq!(texts(store.take_reports()), [format!("{POOL} is well again")]);
        store.put(BLOCK.as_bytes(), b"{");
        store.take_reports();
        store.delete(BLOCK.as_bytes());
        let gone = ["10.20.42.0/26 gone".to_owned(), format!("{BLOCK} is well again")];
        assert_eq!(texts(store.take_reports()), gone);
        // What was deleted is no last good value.
        store.put(BLOCK.as_bytes(), b"{");
        assert!(texts(store.take_reports())[0].ends_with("; skipped"));
    }

    #[test]
    fn a_wrong_entry_is_named_and_the_rest_counts() {
        let node = |bgp: &str| {
            let internal = r#"{"address":"172.31.0.4","type":"InternalIP"}"#;
            format!(r#"{{"spec":{{"bgp":{{"ipv4Address":"{bgp}"}},"addresses":[{internal}]}}}}"#)
        };
        for (key, value, claim, said) in [
            (
                BLOCK,
                r#"{"cidr":"10.20.42.0/26","affinity":"host:b","allocations":[7]}"#,
                "10.20.42.0/26 172.16.35.4",
                "allocation 0 refers to attribute 7, of 0: 10.20.42.0 is skipped",
            ),
            (NODE, &node("10.99.4.2"), "10.20.42.0/26 10.99.4.2", ""),
            (
                NODE,
                &node("010.99.4.2/24"),
                "10.20.42.0/26 172.31.0.4",
                "spec.bgp.ipv4Address `010.99.4.2/24` has leading zeros; write 10.99.4.2/24; \
                 InternalIP 172.31.0.4 is used instead",
            ),
        ] {
            let mut store = store();
            store.put(key.as_bytes(), value.as_bytes());
            let mut expected = vec![claim.to_owned()];
            expected.extend((!said.is_empty()).then(|| format!("{key} {said}")));
            assert_eq!(texts(store.snapshot()), expected, "{value}");
        }
    }

    #[test]
    fn a_list_takes_away_what_is_not_in_it() {
        let mut store = store();
        store.put(POOL.as_bytes(), b"?");
        store.snapshot();
        store.keep_only(None, &HashSet::from([NODE.as_bytes().to_vec()]));
        assert_eq!(
            texts(store.take_reports()),
            ["10.20.42.0/26 gone".to_owned(), format!("{POOL} is well again")]
        );
        store.keep_only(None, &HashSet::new());
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        let said = texts(store.take_reports());
        assert_eq!(said, ["nodes/b is a block's node but has no Node: no routes to its pods"]);
    }

    #[test]
    fn keys_that_are_not_calicos_are_named() {
        let mut store = store();
        store.snapshot();
        for (key, value, said) in [
            (
                &b"/calico/resources/v3/projectcalico.org/nodes/a/b"[..],
                "{}",
                "is no key of Calico's",
            ),
            (b"/calico/resources/v3/projectcalico.org/nodes/\xff/", "{}", "is no key of Calico's"),
            (
                b"/calico/ipam/v2/assignment/ipv4/block/10.20.43.0-26",
                r#"{"cidr":"10.20.42.0/26","affinity":"host:b"}"#,
                "is about 10.20.42.0/26, which its key is not; skipped",
            ),
        ] {
            store.put(key, value.as_bytes());
            let texts = texts(store.take_reports());
            assert!(texts.len() == 1 && texts[0].contains(said), "no {said} in {texts:?}");
        }
    }

    #[test]
    fn a_range_that_may_not_be_read_is_a_problem_until_it_may() {
        let mut store = store();
        store.snapshot();
        let range = Range::all("/calico").into_iter().find(Range::is_optional).unwrap();
        let error = Endpoint::new("etcd http://a").error("permission denied").during("listing");
        store.set_unreadable(&[(range, error)]);
        let said = "/calico/ipam/v2/host/ permission denied; skipped";
        assert_eq!(texts(store.take_reports()), [said]);
        store.set_unreadable(&[]);
        assert_eq!(texts(store.take_reports()), ["/calico/ipam/v2/host/ is well again"]);
    }
}
