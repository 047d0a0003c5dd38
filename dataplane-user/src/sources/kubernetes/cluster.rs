//! What all objects say together, and what of it is new.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::Arc,
};

use super::{
    access::Kind,
    backends::Right,
    by_name::Names,
    discovery::Found,
    object::{NodeSays, Object, Says},
    plan::{Plan, Topic, Wanted},
};
use crate::{
    config::sources::Borrowed,
    sources::{
        Origin, Report,
        calico::{Aspect, Block, CalicoNode, Resolver, Understood},
        reads::{Owners, Pace, Reads, Size},
    },
};

/// Outlives the sessions: what was said stays until its place is taken.
pub struct Cluster {
    found: Found,
    wanted: Wanted,
    own_name: String,
    resolver: Resolver,
    /// The objects there are, to find out which ones a new list no longer has.
    known: HashMap<Kind, HashSet<Origin>>,
    /// What was listed at least once.
    listed: BTreeSet<Topic>,
    /// Where the file leaves it to the size of the cluster.
    size: Option<Size>,
    /// Who says whose a block is; `None`: not all is listed yet.
    owners: Option<Owners>,
    /// Whether affinities may not be read.
    are_affinities_forbidden: bool,
    /// Whether the API servers' own addresses may be read.
    right_to_backends: Right,
    /// Nodes that cannot be heard of but by name.
    unheard: BTreeSet<String>,
    /// Nodes with pod CIDRs, whether those count or not.
    pod_cidrs: HashSet<Origin>,
    reported: Option<Reads>,
    has_spoken: bool,
}

impl Cluster {
    /// Empty, for the node of this name.
    pub fn new(found: Found, wanted: Wanted, own_name: &str) -> Self {
        Self {
            found,
            wanted,
            own_name: own_name.to_owned(),
            resolver: Resolver::new(own_name).calling_nodes(Kind::Node.as_str()),
            known: HashMap::new(),
            listed: BTreeSet::new(),
            size: None,
            owners: None,
            are_affinities_forbidden: false,
            right_to_backends: Right::Given,
            unheard: BTreeSet::new(),
            pod_cidrs: HashSet::new(),
            reported: None,
            has_spoken: false,
        }
    }

    /// What is read.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Decides what to read from now on.
    pub fn plan(&mut self) -> Plan {
        if self.wanted.is_auto() && self.listed.contains(&Topic::Nodes) {
            self.size = Some(Size::of(self.nodes(), self.size));
        }
        self.current_plan()
    }

    /// Begins a session, which may have other rights: this one to the API servers' own addresses.
    pub fn begin(&mut self, right_to_backends: Right) {
        self.are_affinities_forbidden = false;
        self.right_to_backends = right_to_backends;
    }

    /// Notes that affinities may not be read; returns whether it goes without them: where the file
    /// does not say how closely blocks are followed. The rule for affinities is newer than others.
    pub fn without_affinities(&mut self) -> bool {
        self.are_affinities_forbidden |= self.wanted.borrowed == Borrowed::Auto;
        self.are_affinities_forbidden
    }

    /// These are all objects of a topic.
    pub fn listed(&mut self, topic: Topic, mut objects: Vec<Object>) {
        let plan = self.plan();
        match topic {
            Topic::OwnNode => match objects.pop() {
                Some(own) => self.apply(Kind::Node, own),
                None => self.delete(Kind::Node, &self.own_name.clone()),
            },
            Topic::Nodes if plan.pace(topic) == Some(Pace::Polled) => {
                // Its own list and watch are the newer word.
                let is_own = |name: &str| name == self.own_name;
                if self.listed.contains(&Topic::OwnNode) {
                    objects.retain(|object| !is_own(&object.name));
                }
                self.replace_polled_nodes(objects);
            }
            Topic::Affinities if !self.affinities_count(plan) => return,
            Topic::Nodes | Topic::Affinities | Topic::Blocks | Topic::Pools => {
                self.replace(topic.kind(), objects);
            }
        }
        self.listed.insert(topic);
        self.change_owners(topic, plan);
    }

    /// An object of a topic is so now.
    pub fn applied(&mut self, topic: Topic, object: Object) {
        if topic != Topic::Affinities || self.affinities_count(self.current_plan()) {
            self.apply(topic.kind(), object);
        }
    }

    /// An object of a topic is gone.
    pub fn deleted(&mut self, topic: Topic, name: &str) {
        self.delete(topic.kind(), name);
    }

    /// A node that was asked for by name is so now.
    pub fn found_by_name(&mut self, object: Object) {
        if self.current_plan().pace(Topic::Nodes) != Some(Pace::Polled) {
            // What is followed is the newer word.
            return;
        }
        let name = object.name.clone();
        let before = self.resolver.node_address(&name);
        self.apply(Kind::Node, object);
        if self.resolver.node_address(&name) != before
            && let Some(other) = self.resolver.sharing_address(&name)
        {
            // It may have the address of a node that is gone.
            self.unheard.insert(other.to_owned());
        }
    }

    /// The API knows no node by this name.
    pub fn missing_by_name(&mut self, name: &str) {
        if self.current_plan().pace(Topic::Nodes) == Some(Pace::Polled) {
            self.delete(Kind::Node, name);
        }
    }

    /// The nodes that have to be asked for by name, since this was last called.
    pub fn take_unheard(&mut self) -> Option<Names> {
        let mut names = mem::take(&mut self.unheard);
        names.remove(&self.own_name);
        let is_polled = self.current_plan().pace(Topic::Nodes) == Some(Pace::Polled);
        (is_polled && !names.is_empty())
            .then(|| Names { names: names.into_iter().collect(), nodes: self.nodes() })
    }

    fn current_plan(&self) -> Plan {
        let borrowed = match self.are_affinities_forbidden {
            true => Borrowed::Followed,
            false => self.wanted.borrowed,
        };
        Plan::new(self.found, Wanted { borrowed, ..self.wanted }, self.size, self.owners)
    }

    /// How many nodes there are.
    fn nodes(&self) -> usize {
        self.known.get(&Kind::Node).map_or(0, HashSet::len)
    }

    /// Whether affinities say whose a block is, or are about to.
    fn affinities_count(&self, plan: Plan) -> bool {
        self.owners == Some(Owners::Affinities) || plan.owners == Some(Owners::Affinities)
    }

    /// Whether blocks say whose they are, or are about to.
    fn blocks_count(&self, plan: Plan) -> bool {
        self.owners == Some(Owners::Blocks) || plan.owners == Some(Owners::Blocks)
    }

    /// Now that a topic is listed it counts, if the plan wants that, and the other does not any more.
    fn change_owners(&mut self, topic: Topic, plan: Plan) {
        let counts = match topic {
            Topic::Affinities => Owners::Affinities,
            Topic::Blocks => Owners::Blocks,
            Topic::Nodes | Topic::OwnNode | Topic::Pools => return,
        };
        if plan.owners != Some(counts) {
            return;
        }
        let before = self.owners.replace(counts);
        if before.is_none_or(|before| before == counts) {
            return;
        }
        match counts {
            Owners::Affinities => {
                for origin in self.origins(Kind::Block) {
                    let block = self.resolver.block(&origin).cloned();
                    let block = block.map(|block| Block { host: None, ..block });
                    self.resolver.set_block(origin, block);
                }
            }
            Owners::Blocks => {
                for origin in self.origins(Kind::Affinity) {
                    self.delete_origin(Kind::Affinity, &origin);
                }
                self.listed.remove(&Topic::Affinities);
            }
        }
    }

    fn origins(&self, kind: Kind) -> Vec<Origin> {
        self.known.get(&kind).into_iter().flatten().cloned().collect()
    }

    fn delete_origin(&mut self, kind: Kind, origin: &Origin) {
        if let Some((_, name)) = origin.split_once('/') {
            self.delete(kind, name);
        }
    }

    /// The objects that are known, and not in a new list.
    fn gone(&mut self, kind: Kind, objects: &[Object]) -> Vec<Origin> {
        let known = self.known.entry(kind).or_default();
        let listed: HashSet<_> = objects.iter().map(|object| origin(kind, &object.name)).collect();
        known.difference(&listed).cloned().collect()
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>) {
        for origin in self.gone(kind, &objects) {
            self.delete_origin(kind, &origin);
        }
        for object in objects {
            self.apply(kind, object);
        }
    }

    /// A list may be older than what was heard of a single node: what it lacks, and blocks name, is
    /// asked for once more.
    fn replace_polled_nodes(&mut self, objects: Vec<Object>) {
        for origin in self.gone(Kind::Node, &objects) {
            let name = origin.split_once('/').map_or("", |(_, name)| name);
            if name == self.own_name && self.listed.contains(&Topic::OwnNode) {
                continue;
            }
            match self.resolver.is_named(name) {
                true => drop(self.unheard.insert(name.to_owned())),
                false => self.delete_origin(Kind::Node, &origin),
            }
        }
        for object in objects {
            self.apply(Kind::Node, object);
        }
        if self.has_spoken {
            self.ask_for_named();
        }
    }

    /// Nodes that blocks name, though there is none of that name, have to be asked for.
    fn ask_for_named(&mut self) {
        let nodes = self.known.get(&Kind::Node);
        let is_known =
            |name: &&str| nodes.is_some_and(|nodes| nodes.contains(&origin(Kind::Node, name)));
        let missing = self.resolver.named().filter(|name| !is_known(name)).map(str::to_owned);
        self.unheard.extend(missing);
    }

    /// A block is so now. A node that no block has named before is new, or was made anew: the last
    /// list of nodes does not say which address it has.
    fn set_block(&mut self, origin: Origin, block: Option<Block>) {
        if let Some(block) = block.as_ref().filter(|_| self.has_spoken) {
            let names = block.names().into_iter();
            let new = names.filter(|name| !self.resolver.is_named(name)).map(str::to_owned);
            self.unheard.extend(new);
        }
        self.resolver.set_block(origin, block);
    }

    /// An object is so now. One that makes no sense leaves what it said before.
    fn apply(&mut self, kind: Kind, object: Object) {
        let Object { name, says } = object;
        let origin = origin(kind, &name);
        self.known.entry(kind).or_default().insert(origin.clone());
        let problem = match says {
            Ok(Says::Node(says)) => self.apply_node(&origin, &name, says),
            Ok(Says::Affinity(affinity)) => {
                self.set_block(origin.clone(), affinity.map(Block::from));
                None
            }
            Ok(Says::Block(Understood { object: block, doubt })) => {
                // What is polled is too old to say whose the block is: affinities do.
                let counts = self.blocks_count(self.current_plan());
                let block = block.map(|block| match counts {
                    true => block,
                    false => Block { host: None, ..block },
                });
                self.set_block(origin.clone(), block);
                doubt.map(|doubt| doubt.to_string())
            }
            Ok(Says::Pool(pool)) => {
                self.resolver.set_pool(origin.clone(), pool);
                None
            }
            Err(problem) => Some(format!("{problem}; skipped")),
        };
        self.resolver.set_problem(origin, Aspect::Object, problem);
    }

    fn apply_node(&mut self, origin: &Origin, name: &str, says: NodeSays) -> Option<String> {
        let NodeSays { node: Understood { object: node, doubt }, pods } = says;
        let doubt = doubt.map(|doubt| doubt.to_string());
        // With host-local Calico's device has the address behind the network's, and no annotation:
        // `libcalico-go/lib/backend/k8s/resources/node.go`.
        let cidr = pods.as_ref().ok().and_then(|pods| pods.object);
        let second = cidr.and_then(|cidr| cidr.hosts().next());
        let is_host_local = self.found == Found::HostLocal;
        let tunnel = node.tunnel.or(second.filter(|_| is_host_local));
        self.resolver.set_node(name, Some(CalicoNode { tunnel, ..node }));
        if pods.as_ref().is_ok_and(|pods| pods.object.is_some()) {
            self.pod_cidrs.insert(origin.clone());
        } else {
            self.pod_cidrs.remove(origin);
        }
        if self.found != Found::HostLocal {
            return doubt;
        }
        match pods {
            Ok(Understood { object: pods, doubt: wrong_pods }) => {
                let host = Some(name.to_owned());
                let block = pods.map(|cidr| Block { cidr, host, borrowed: BTreeMap::new() });
                self.resolver.set_block(origin.clone(), block);
                doubt.or_else(|| wrong_pods.map(|wrong| wrong.to_string()))
            }
            Err(problem) => Some(format!("{problem}; skipped")),
        }
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        let origin = origin(kind, name);
        match kind {
            Kind::Node => {
                self.resolver.set_node(name, None);
                self.pod_cidrs.remove(&origin);
                if self.found == Found::HostLocal {
                    self.resolver.set_block(origin.clone(), None);
                }
            }
            Kind::Block | Kind::Affinity => self.resolver.set_block(origin.clone(), None),
            Kind::Pool => self.resolver.set_pool(origin.clone(), None),
        }
        if let Some(known) = self.known.get_mut(&kind) {
            known.remove(&origin);
        }
        self.resolver.set_problem(origin, Aspect::Object, None);
    }

    /// What is new since it was last asked; nothing before everything was listed.
    pub fn reports(&mut self) -> Vec<Report> {
        let plan = self.plan();
        if !self.has_spoken && !plan.topics().all(|topic| self.listed.contains(&topic)) {
            return Vec::new();
        }
        self.check();
        let reads = plan.reads(self.owners);
        let is_news = self.reported.replace(reads) != Some(reads);
        let new = if mem::replace(&mut self.has_spoken, true) {
            self.resolver.take_reports()
        } else {
            self.ask_for_named();
            self.resolver.report_all()
        };
        is_news.then_some(Report::Reads(reads)).into_iter().chain(new).collect()
    }

    /// Looks for what is wrong with the cluster as a whole.
    fn check(&mut self) {
        let kind = match self.owners {
            Some(Owners::Affinities) => Kind::Affinity,
            Some(Owners::Blocks) | None => Kind::Block,
        };
        let has_blocks = self.known.get(&kind).is_some_and(|blocks| !blocks.is_empty());
        let hint = (self.found != Found::HostLocal && !has_blocks && !self.pod_cidrs.is_empty())
            .then(|| {
                "there are none, but the nodes have pod CIDRs: if those count (host-local), \
                 set sources.kubernetes.api to none"
                    .to_owned()
            });
        self.resolver.set_problem(Arc::from("IPAMBlocks"), Aspect::Cluster, hint);

        let has_nodes = self.known.get(&Kind::Node).is_some_and(|nodes| !nodes.is_empty());
        let empty = (self.found == Found::HostLocal && has_nodes && self.pod_cidrs.is_empty())
            .then(|| {
                "have no pod CIDRs, and no IPAM of Calico's is read from this API: no route \
                 follows from it; if Calico's datastore is etcd, set sources.etcd instead"
                    .to_owned()
            });
        self.resolver.set_problem(Arc::from("Nodes"), Aspect::Cluster, empty);

        let forbidden = self.are_affinities_forbidden.then(|| {
            "may not be read, so all blocks are followed, which costs the API servers much in a \
             cluster of this size; packaging/rbac.yaml has the rule"
                .to_owned()
        });
        self.resolver.set_problem(Arc::from("BlockAffinities"), Aspect::Cluster, forbidden);

        let hidden = (self.right_to_backends == Right::Missing).then(|| {
            "of the Service default/kubernetes may not be read, so a route around an API server \
             behind it is refused only if the server is a node; packaging/rbac.yaml has the rule"
                .to_owned()
        });
        self.resolver.set_problem(Arc::from("EndpointSlices"), Aspect::Cluster, hidden);
    }
}

fn origin(kind: Kind, name: &str) -> Origin {
    Arc::from(format!("{}/{name}", kind.as_str()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{access::CALICO_V1, object::read},
        *,
    };
    use crate::config::sources::Nodes;

    /// What is reported of a node `n` with these pod CIDRs and this block, if any.
    fn report(found: Found, spec: &Value, block: Option<Value>) -> (Vec<String>, Vec<String>) {
        let wanted = Wanted { nodes: Nodes::Auto, borrowed: Borrowed::Auto };
        let mut cluster = Cluster::new(found, wanted, "n");
        let node = json!({
            "metadata": {"name": "n"}, "spec": spec,
            "status": {"addresses": [{"type": "InternalIP", "address": "172.17.0.7"}]},
        });
        cluster.listed(Topic::Nodes, vec![read(Kind::Node, node)]);
        let block = block.map(|spec| json!({"metadata": {"name": "b"}, "spec": spec}));
        cluster.listed(Topic::Blocks, block.map(|it| read(Kind::Block, it)).into_iter().collect());
        cluster.listed(Topic::Pools, Vec::new());
        let Some(Report::Snapshot { claims, problems }) = cluster.reports().pop() else { panic!() };
        (
            claims.iter().map(|change| change.cidr.to_string()).collect(),
            problems.iter().map(|(origin, text)| format!("{origin} {text}")).collect(),
        )
    }

    #[test]
    fn an_api_that_no_route_follows_from_is_a_problem() {
        let calico = Found::Calico(CALICO_V1);
        for (found, spec, said) in [
            (Found::HostLocal, json!({}), "Nodes have no pod CIDRs, and no IPAM of Calico's"),
            (Found::HostLocal, json!({"podCIDR": "fd00::/64"}), "Nodes have no pod CIDRs"),
            (Found::HostLocal, json!({"podCIDR": "10.244.1.0/24"}), ""),
            (calico, json!({}), ""),
            (calico, json!({"podCIDR": "10.244.1.0/24"}), "IPAMBlocks there are none"),
        ] {
            let (_, problems) = report(found, &spec, None);
            assert_eq!(problems.len(), usize::from(!said.is_empty()), "{problems:?}");
            assert!(problems.iter().all(|problem| problem.starts_with(said)), "{problems:?}");
        }
    }

    #[test]
    fn a_wrong_entry_is_named_and_the_rest_counts() {
        let block = json!({"cidr": "10.77.1.0/26", "affinity": "host:n", "allocations": [5]});
        let (claims, problems) = report(Found::Calico(CALICO_V1), &json!({}), Some(block));
        assert_eq!(claims, ["10.77.1.0/26"]);
        let said = "IPAMBlock/b allocation 0 refers to attribute 5, of 0: 10.77.1.0 is skipped";
        assert_eq!(problems, [said]);

        let spec = json!({"podCIDRs": ["ten", "10.244.1.0/24"]});
        let (claims, problems) = report(Found::HostLocal, &spec, None);
        assert_eq!(claims, ["10.244.1.0/24"]);
        assert_eq!(problems, ["Node/n podCIDR `ten` is no prefix"]);
    }
}
