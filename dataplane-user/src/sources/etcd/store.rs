//! Objects in, reports out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ipnet::Ipv4Net;

use super::ranges::{Key, Range};
use crate::sources::{
    Origin, Report,
    calico::{Affinity, Block, CalicoNode, Pool, Resolver},
    error::{Malformed, SourceError},
};

/// What etcd holds, as far as routes follow from it.
///
/// A value that cannot be understood changes nothing: what its key said before
/// stays in force until it says something else, or is deleted.
pub struct Store {
    prefix: String,
    resolver: Resolver,
    /// Every key there is, understood or not.
    keys: BTreeSet<Origin>,
    /// Keys that cannot be understood, and why.
    malformed: BTreeMap<Origin, String>,
    /// Those whose last good value is in force.
    good: BTreeSet<Origin>,
    /// Ranges that may not be read.
    unreadable: BTreeMap<Origin, String>,
    /// Problems as they were told.
    told: BTreeMap<Origin, String>,
    /// Those that may be others now.
    touched: BTreeSet<Origin>,
}

impl Store {
    /// An empty one.
    pub fn new(prefix: &str, own_name: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            resolver: Resolver::new(own_name),
            keys: BTreeSet::new(),
            malformed: BTreeMap::new(),
            good: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            told: BTreeMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// A key has this value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let origin = self.origin(key);
        self.keys.insert(origin.clone());
        match self.understand(&origin, value) {
            Ok(()) => {
                if self.malformed.remove(&origin).is_some() {
                    self.touched.insert(origin.clone());
                }
                self.good.insert(origin);
            }
            Err(why) => {
                let instead = if self.good.contains(&origin) {
                    "what it said before stays in force"
                } else {
                    "skipped"
                };
                self.touched.insert(origin.clone());
                self.malformed.insert(origin, format!("{why}; {instead}"));
            }
        }
    }

    /// A key is gone.
    pub fn delete(&mut self, key: &[u8]) {
        let origin = self.origin(key);
        self.forget(&origin);
    }

    /// All other keys are gone.
    pub fn keep_only(&mut self, keys: &HashSet<Vec<u8>>) {
        let kept: HashSet<String> =
            keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let gone: Vec<Origin> =
            self.keys.iter().filter(|key| !kept.contains(key.as_ref())).cloned().collect();
        for origin in gone {
            self.forget(&origin);
        }
    }

    /// These ranges may not be read, and can be done without.
    pub fn set_unreadable(&mut self, ranges: &[(Range, SourceError)]) {
        let before = std::mem::take(&mut self.unreadable);
        self.touched.extend(before.into_keys());
        for (range, error) in ranges {
            let origin = Origin::from(range.start.as_str());
            self.touched.insert(origin.clone());
            self.unreadable.insert(origin, format!("{}; skipped", error.why()));
        }
    }

    /// Everything.
    pub fn snapshot(&mut self) -> Report {
        // What changed up to now is in it.
        self.resolver.take_changes();
        self.resolver.take_problems();
        self.touched.clear();
        let mut problems: BTreeMap<_, _> = self.resolver.problems().into_iter().collect();
        problems.extend(self.malformed.clone());
        problems.extend(self.unreadable.clone());
        self.told.clone_from(&problems);
        Report::Snapshot {
            claims: self.resolver.snapshot(),
            problems: problems.into_iter().collect(),
        }
    }

    /// What changed since this or [`Store::snapshot`] was last asked for.
    pub fn take_reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        let changes = self.resolver.take_changes();
        if !changes.is_empty() {
            reports.push(Report::Changes(changes));
        }
        let resolved = self.resolver.take_problems().into_iter().map(|(origin, _)| origin);
        self.touched.extend(resolved);
        for origin in std::mem::take(&mut self.touched) {
            let own = self.malformed.get(&origin).or_else(|| self.unreadable.get(&origin));
            let now = own.map(String::as_str).or_else(|| self.resolver.problem(&origin));
            let now = now.map(str::to_owned);
            let told = match now.clone() {
                Some(text) => self.told.insert(origin.clone(), text),
                None => self.told.remove(&origin),
            };
            if told != now {
                reports.push(Report::Problem(origin, now));
            }
        }
        reports
    }

    /// The key for people; the same one each time.
    fn origin(&self, key: &[u8]) -> Origin {
        let text = String::from_utf8_lossy(key);
        self.keys.get(text.as_ref()).map_or_else(|| Arc::from(text.as_ref()), Origin::clone)
    }

    fn forget(&mut self, origin: &Origin) {
        self.keys.remove(origin);
        self.good.remove(origin);
        if self.malformed.remove(origin).is_some() {
            self.touched.insert(origin.clone());
        }
        match Key::parse(&self.prefix, origin) {
            Key::Block(_) => self.resolver.set_block(origin.clone(), None),
            Key::Node(name) => self.resolver.set_node(name, None),
            Key::Pool => self.resolver.set_pool(origin.clone(), None),
            Key::Affinity(_) => self.resolver.set_affinity(origin.clone(), None),
            Key::Foreign => {}
        }
    }

    fn understand(&mut self, origin: &Origin, value: &[u8]) -> Result<(), Malformed> {
        match Key::parse(&self.prefix, origin) {
            Key::Block(name) => {
                let block = Block::from_json(value)?;
                if let Some(Block { cidr, .. }) = &block
                    && of_key(name) != Some(*cidr)
                {
                    return Err(Malformed::new(format!("is about {cidr}, which its key is not")));
                }
                self.resolver.set_block(origin.clone(), block);
            }
            Key::Node(name) => self.resolver.set_node(name, Some(CalicoNode::from_json(value)?)),
            Key::Pool => self.resolver.set_pool(origin.clone(), Pool::from_json(value)?),
            Key::Affinity(key) => {
                self.resolver.set_affinity(origin.clone(), Affinity::from_etcd(key, value)?);
            }
            Key::Foreign => return Err(Malformed::new("is no key of Calico's")),
        }
        Ok(())
    }
}

/// `10.65.1.0-26`.
fn of_key(name: &str) -> Option<Ipv4Net> {
    let (network, length) = name.rsplit_once('-')?;
    format!("{network}/{length}").parse().ok()
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
        let mut store = Store::new("/calico", "me");
        let node = r#"{"spec":{"bgp":{"ipv4Address":"172.16.35.4/24"}}}"#;
        store.put(NODE.as_bytes(), node.as_bytes());
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        store
    }

    /// `key problem` for problems, `prefix node` for claims.
    #[expect(clippy::needless_pass_by_value, reason = "reads best where it is used")]
    fn told(reports: Vec<Report>) -> Vec<String> {
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
                Report::Problems(_) | Report::Down(_) | Report::Up => {
                    panic!("not said here: {report:?}")
                }
            })
            .collect()
    }

    #[test]
    fn a_value_that_cannot_be_understood_takes_nothing_away() {
        let mut store = store();
        assert_eq!(told(vec![store.snapshot()]), ["10.20.42.0/26 172.16.35.4"]);
        assert_eq!(told(store.take_reports()), [""; 0]);
        for (key, garbage) in [(BLOCK, "{"), (NODE, "[]"), (BLOCK, ""), (POOL, "?")] {
            store.put(key.as_bytes(), garbage.as_bytes());
            let told = told(store.take_reports());
            assert_eq!(told.len(), 1, "{told:?}");
            let instead =
                if key == POOL { "; skipped" } else { "; what it said before stays in force" };
            assert!(told[0].starts_with(key) && told[0].ends_with(instead), "{told:?}");
        }
        let whole = told(vec![store.snapshot()]);
        assert_eq!(whole[0], "10.20.42.0/26 172.16.35.4");
        assert_eq!(whole.len(), 4, "{whole:?}");
        // Good again, or gone.
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        assert_eq!(told(store.take_reports()), [format!("{BLOCK} is well again")]);
        store.delete(POOL.as_bytes());
        assert_eq!(told(store.take_reports()), [format!("{POOL} is well again")]);
        store.put(BLOCK.as_bytes(), b"{");
        store.take_reports();
        store.delete(BLOCK.as_bytes());
        let gone = ["10.20.42.0/26 gone".to_owned(), format!("{BLOCK} is well again")];
        assert_eq!(told(store.take_reports()), gone);
        // What was deleted is no last good value.
        store.put(BLOCK.as_bytes(), b"{");
        assert!(told(store.take_reports())[0].ends_with("; skipped"));
    }

    #[test]
    fn a_list_takes_away_what_is_not_in_it() {
        let mut store = store();
        store.put(POOL.as_bytes(), b"?");
        store.snapshot();
        store.keep_only(&HashSet::from([NODE.as_bytes().to_vec()]));
        assert_eq!(
            told(store.take_reports()),
            ["10.20.42.0/26 gone".to_owned(), format!("{POOL} is well again")]
        );
        store.keep_only(&HashSet::new());
        store.put(BLOCK.as_bytes(), block("b").as_bytes());
        let said = told(store.take_reports());
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
            let told = told(store.take_reports());
            assert!(told.len() == 1 && told[0].contains(said), "no {said} in {told:?}");
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
        assert_eq!(told(store.take_reports()), [said]);
        store.set_unreadable(&[]);
        assert_eq!(told(store.take_reports()), ["/calico/ipam/v2/host/ is well again"]);
    }
}
