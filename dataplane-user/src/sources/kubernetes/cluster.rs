//! What all objects say together, and what of it is new.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    access::Kind,
    discovery::Found,
    object::{NodeSays, Object, Says},
};
use crate::sources::{
    Origin, Report,
    calico::{Block, Resolver},
};

/// Outlives the sessions: what was said stays until its place is taken.
pub struct Cluster {
    found: Found,
    own_name: String,
    resolver: Resolver,
    /// The objects there are, to find out which ones a new list no longer has.
    known: HashMap<Kind, HashSet<Origin>>,
    problems: Problems,
    /// Nodes with pod CIDRs that do not count.
    pod_cidrs: HashSet<Origin>,
    has_spoken: bool,
}

/// Several may have a complaint about one object; the first of these counts.
#[derive(Default)]
struct Problems {
    malformed: BTreeMap<Origin, String>,
    resolved: BTreeMap<Origin, String>,
    /// Of the cluster as a whole, and our place in it.
    own: BTreeMap<Origin, String>,
    touched: BTreeSet<Origin>,
}

impl Problems {
    fn set_malformed(&mut self, origin: &Origin, problem: Option<String>) {
        set(&mut self.malformed, origin, problem, &mut self.touched);
    }

    fn set_resolved(&mut self, origin: &Origin, problem: Option<String>) {
        set(&mut self.resolved, origin, problem, &mut self.touched);
    }

    fn set_own(&mut self, origin: &Origin, problem: Option<String>) {
        set(&mut self.own, origin, problem, &mut self.touched);
    }

    fn get(&self, origin: &Origin) -> Option<&String> {
        [&self.malformed, &self.resolved, &self.own].into_iter().find_map(|it| it.get(origin))
    }

    fn all(&self) -> Vec<(Origin, String)> {
        let all = [&self.malformed, &self.resolved, &self.own];
        let origins: BTreeSet<_> = all.into_iter().flat_map(BTreeMap::keys).collect();
        let all = origins.into_iter().filter_map(|it| Some((it.clone(), self.get(it)?.clone())));
        all.collect()
    }
}

fn set(
    problems: &mut BTreeMap<Origin, String>,
    origin: &Origin,
    problem: Option<String>,
    touched: &mut BTreeSet<Origin>,
) {
    if problems.get(origin) == problem.as_ref() {
        return;
    }
    touched.insert(origin.clone());
    match problem {
        Some(problem) => drop(problems.insert(origin.clone(), problem)),
        None => drop(problems.remove(origin)),
    }
}

impl Cluster {
    /// Empty, for the node of this name.
    pub fn new(found: Found, own_name: &str) -> Self {
        Self {
            found,
            own_name: own_name.to_owned(),
            resolver: Resolver::new(own_name),
            known: HashMap::new(),
            problems: Problems::default(),
            pod_cidrs: HashSet::new(),
            has_spoken: false,
        }
    }

    /// What is read.
    pub fn found(&self) -> Found {
        self.found
    }

    /// These are all objects of a kind.
    pub fn replace(&mut self, kind: Kind, objects: Vec<Object>) {
        let known = self.known.entry(kind).or_default();
        let listed: HashSet<_> = objects.iter().map(|object| origin(kind, &object.name)).collect();
        let gone: Vec<Origin> = known.difference(&listed).cloned().collect();
        for origin in gone {
            if let Some((_, name)) = origin.split_once('/') {
                self.delete(kind, name);
            }
        }
        for object in objects {
            self.apply(kind, object);
        }
    }

    /// An object is so now. One that makes no sense leaves what it said before.
    pub fn apply(&mut self, kind: Kind, object: Object) {
        let Object { name, says } = object;
        let origin = origin(kind, &name);
        self.known.entry(kind).or_default().insert(origin.clone());
        let problem = match says {
            Ok(Says::Node(says)) => self.apply_node(&origin, &name, says),
            Ok(Says::Block(block)) => {
                self.resolver.set_block(origin.clone(), block);
                None
            }
            Ok(Says::Pool(pool)) => {
                self.resolver.set_pool(origin.clone(), pool);
                None
            }
            Err(problem) => Some(format!("{problem}; skipped")),
        };
        self.problems.set_malformed(&origin, problem);
    }

    fn apply_node(&mut self, origin: &Origin, name: &str, says: NodeSays) -> Option<String> {
        let NodeSays { node, doubt, pods } = says;
        self.resolver.set_node(name, Some(node));
        if self.found != Found::HostLocal {
            match pods {
                Ok(Some(_)) => drop(self.pod_cidrs.insert(origin.clone())),
                Ok(None) | Err(_) => drop(self.pod_cidrs.remove(origin)),
            }
            return doubt;
        }
        match pods {
            Ok(pods) => {
                let host = Some(name.to_owned());
                let block = pods.map(|cidr| Block { cidr, host, borrowed: BTreeMap::new() });
                self.resolver.set_block(origin.clone(), block);
                doubt
            }
            Err(problem) => Some(format!("{problem}; skipped")),
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, kind: Kind, name: &str) {
        let origin = origin(kind, name);
        match kind {
            Kind::Node => {
                self.resolver.set_node(name, None);
                self.pod_cidrs.remove(&origin);
                if self.found == Found::HostLocal {
                    self.resolver.set_block(origin.clone(), None);
                }
            }
            Kind::Block => self.resolver.set_block(origin.clone(), None),
            Kind::Pool => self.resolver.set_pool(origin.clone(), None),
        }
        if let Some(known) = self.known.get_mut(&kind) {
            known.remove(&origin);
        }
        self.problems.set_malformed(&origin, None);
    }

    /// What is new since it was last asked; nothing before every kind was listed.
    pub fn reports(&mut self) -> Vec<Report> {
        let kinds = self.found.resources();
        if !kinds.iter().all(|resource| self.known.contains_key(&resource.kind)) {
            return Vec::new();
        }
        self.judge();
        let changes = self.resolver.take_changes();
        if !self.has_spoken {
            self.has_spoken = true;
            self.problems.touched.clear();
            let (claims, problems) = (self.resolver.snapshot(), self.problems.all());
            return vec![Report::Snapshot { claims, problems }];
        }
        let mut reports = Vec::new();
        if !changes.is_empty() {
            reports.push(Report::Changes(changes));
        }
        for origin in std::mem::take(&mut self.problems.touched) {
            let problem = self.problems.get(&origin).cloned();
            reports.push(Report::Problem(origin, problem));
        }
        reports
    }

    fn judge(&mut self) {
        for (origin, problem) in self.resolver.take_problems() {
            // By our names, so that all complaints about an object stand together.
            let origin = match origin.strip_prefix("nodes/") {
                Some(name) => self::origin(Kind::Node, name),
                None => origin,
            };
            self.problems.set_resolved(&origin, problem);
        }
        let own = origin(Kind::Node, &self.own_name);
        let is_known = self.known.get(&Kind::Node).is_some_and(|nodes| nodes.contains(&own));
        let stranger = "this node is not in the cluster by this name: correct node.name";
        self.problems.set_own(&own, (!is_known).then(|| stranger.to_owned()));

        let has_blocks = self.known.get(&Kind::Block).is_some_and(|blocks| !blocks.is_empty());
        let hint = (self.found != Found::HostLocal && !has_blocks && !self.pod_cidrs.is_empty())
            .then(|| {
                "there are none, but the nodes have pod CIDRs: if those count (host-local), \
                 set sources.kubernetes.api to none"
                    .to_owned()
            });
        self.problems.set_own(&Arc::from("IPAMBlocks"), hint);
    }
}

fn origin(kind: Kind, name: &str) -> Origin {
    Arc::from(format!("{}/{name}", kind.as_str()))
}
