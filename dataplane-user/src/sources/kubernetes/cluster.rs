//! What all objects say together, and what of it is new.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    access::Kind,
    discovery::Found,
    object::{NodeSays, Object, Says},
};
use crate::{
    config::sources::Borrowed,
    sources::{
        Origin, Report,
        calico::{Affinity, Aspect, Block, CalicoNode, Resolver, Understood},
    },
};

/// Outlives the sessions: what was said stays until its place is taken.
pub struct Cluster {
    found: Found,
    borrowed: Borrowed,
    resolver: Resolver,
    /// The objects there are, to find out which ones a new list no longer has.
    known: HashMap<Kind, HashSet<Origin>>,
    /// Nodes with pod CIDRs, whether those count or not.
    pod_cidrs: HashSet<Origin>,
    has_spoken: bool,
}

impl Cluster {
    /// Empty, for the node of this name.
    pub fn new(found: Found, borrowed: Borrowed, own_name: &str) -> Self {
        Self {
            found,
            borrowed,
            resolver: Resolver::new(own_name).calling_nodes(Kind::Node.as_str()),
            known: HashMap::new(),
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
            Ok(Says::Affinity(affinity)) => {
                let block = affinity.map(|Affinity { cidr, host }| Block {
                    cidr,
                    host: Some(host),
                    borrowed: BTreeMap::new(),
                });
                self.resolver.set_block(origin.clone(), block);
                None
            }
            Ok(Says::Block(Understood { object: block, doubt })) => {
                // What is polled is too old to say whose the block is: affinities do.
                let is_old = self.borrowed == Borrowed::Polled;
                let block = block.map(|block| match is_old {
                    true => Block { host: None, ..block },
                    false => block,
                });
                self.resolver.set_block(origin.clone(), block);
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
            Kind::Block | Kind::Affinity => self.resolver.set_block(origin.clone(), None),
            Kind::Pool => self.resolver.set_pool(origin.clone(), None),
        }
        if let Some(known) = self.known.get_mut(&kind) {
            known.remove(&origin);
        }
        self.resolver.set_problem(origin, Aspect::Object, None);
    }

    /// What is new since it was last asked; nothing before every kind was listed.
    pub fn reports(&mut self) -> Vec<Report> {
        let kinds = self.found.resources(self.borrowed);
        if !kinds.iter().all(|resource| self.known.contains_key(&resource.kind)) {
            return Vec::new();
        }
        self.check();
        if std::mem::replace(&mut self.has_spoken, true) {
            self.resolver.take_reports()
        } else {
            self.resolver.report_all()
        }
    }

    /// Looks for what is wrong with the cluster as a whole.
    fn check(&mut self) {
        let kind = match self.borrowed {
            Borrowed::Followed => Kind::Block,
            Borrowed::Polled | Borrowed::Off => Kind::Affinity,
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

    /// What is reported of a node `n` with these pod CIDRs and this block, if any.
    fn report(found: Found, spec: &Value, block: Option<Value>) -> (Vec<String>, Vec<String>) {
        let mut cluster = Cluster::new(found, Borrowed::Followed, "n");
        let node = json!({
            "metadata": {"name": "n"}, "spec": spec,
            "status": {"addresses": [{"type": "InternalIP", "address": "172.17.0.7"}]},
        });
        cluster.replace(Kind::Node, vec![read(Kind::Node, node)]);
        let block = block.map(|spec| json!({"metadata": {"name": "b"}, "spec": spec}));
        cluster.replace(Kind::Block, block.map(|it| read(Kind::Block, it)).into_iter().collect());
        cluster.replace(Kind::Pool, Vec::new());
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
