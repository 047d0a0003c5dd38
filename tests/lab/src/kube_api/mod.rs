//! A Kubernetes API, as far as one lists and watches there: discovery, pages,
//! versions, bookmarks, tokens, TLS. And all that can go wrong with one.
//!
//! [`KubeApi`] serves what is put into it; [`objects`] makes objects of real shape,
//! [`Trouble`] breaks what clients are in the middle of.

mod answer;
mod connection;
pub mod objects;
mod store;
mod tls;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use socket2::SockRef;

use crate::{Lab, netns::Netns};

use self::{
    objects::{affinity, block, pool, tunnel_node},
    store::State,
};
pub use self::{
    store::{Collection, Traffic, Trouble},
    tls::Tls,
};

/// `nodes` of the core.
pub const NODES: &str = "/api/v1/nodes";
/// Calico's blocks, older group.
pub const V1_BLOCKS: &str = "/apis/crd.projectcalico.org/v1/ipamblocks";
/// Its pools.
pub const V1_POOLS: &str = "/apis/crd.projectcalico.org/v1/ippools";
/// Its block affinities.
pub const V1_AFFINITIES: &str = "/apis/crd.projectcalico.org/v1/blockaffinities";
/// What serves behind the Services of `default`.
pub const ENDPOINT_SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Calico's blocks, newer group.
pub const V3_BLOCKS: &str = "/apis/projectcalico.org/v3/ipamblocks";
/// Its pools.
pub const V3_POOLS: &str = "/apis/projectcalico.org/v3/ippools";

/// Its block affinities.
pub const V3_AFFINITIES: &str = "/apis/projectcalico.org/v3/blockaffinities";

/// The API, until dropped.
pub struct KubeApi {
    shared: Arc<Shared>,
    /// Where to listen; `None`: on this process' loopback.
    netns: Option<Netns>,
    address: SocketAddr,
    tls: Option<Tls>,
    listener: Option<JoinHandle<()>>,
}

/// What all connections have in common.
struct Shared {
    state: Mutex<State>,
    /// Something happened that a watch may have to tell.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed meanwhile has already said why.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KubeApi {
    /// Serves nodes on this process' loopback.
    pub fn start() -> Result<Self> {
        Self::start_at(None, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)
    }

    /// The same by HTTPS.
    pub fn start_tls(tls: Tls) -> Result<Self> {
        Self::start_at(None, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(tls))
    }

    /// Serves nodes in a namespace.
    pub fn start_in(netns: &Netns, address: SocketAddr) -> Result<Self> {
        Self::start_at(Some(netns.clone()), address, None)
    }

    /// The same by HTTPS.
    pub fn start_tls_in(netns: &Netns, address: SocketAddr, tls: Tls) -> Result<Self> {
        Self::start_at(Some(netns.clone()), address, Some(tls))
    }

    fn start_at(netns: Option<Netns>, address: SocketAddr, tls: Option<Tls>) -> Result<Self> {
        let shared = Shared { state: Mutex::new(State::new()), changed: Condvar::new() };
        let mut api = Self { shared: Arc::new(shared), netns, address, tls, listener: None };
        api.up()?;
        api.serve(NODES, "Node");
        Ok(api)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// How to get there, for somebody with this token.
    #[must_use]
    pub fn kubeconfig(&self, token: &str) -> String {
        let authority = self
            .tls
            .as_ref()
            .map(|tls| format!(", certificate-authority-data: {}", tls.authority_base64()));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters: [{{name: lab, cluster: {{server: \"{}\"{}}}}}]\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: tunless}}}}]\n\
             users: [{{name: tunless, user: {{token: \"{token}\"}}}}]\n",
            self.url(),
            authority.unwrap_or_default(),
        )
    }

    /// Serves another collection, which is empty.
    pub fn serve(&self, path: &str, kind: &'static str) {
        self.shared
            .lock()
            .collections
            .entry(path.to_owned())
            .or_insert_with(|| Collection::new(kind));
    }

    /// Serves Calico's blocks and pools, of the older or the newer group.
    pub fn serve_calico(&self, blocks: &str, pools: &str) {
        self.serve(blocks, "IPAMBlock");
        self.serve(&blocks.replace("ipamblocks", "blockaffinities"), "BlockAffinity");
        self.serve(pools, "IPPool");
    }

    /// Serves what Calico has of a lab: a pool with IPIP, and of each node its object, its block and that the
    /// block is its own.
    pub fn serve_lab(&self, lab: &Lab) {
        self.serve_calico(V1_BLOCKS, V1_POOLS);
        self.set(V1_POOLS, pool("default-ipv4-ippool", "10.20.0.0/16", "Always"));
        for node in lab.nodes() {
            let address = format!("{}/24", node.ip);
            self.set(NODES, tunnel_node(node.name, &address, node.tunnel));
            self.set(V1_BLOCKS, block(V1_BLOCKS, node.block, node.name, &[]));
            self.set(V1_AFFINITIES, affinity(V1_AFFINITIES, node.block, node.name));
        }
    }

    /// No longer serves a collection: 404.
    pub fn remove(&self, path: &str) {
        self.change(|state| drop(state.collections.remove(path)));
    }

    /// Creates or replaces an object.
    pub fn set(&self, path: &str, object: Value) {
        self.change(|state| state.set(path, object));
    }

    /// Deletes an object.
    pub fn delete(&self, path: &str, name: &str) {
        self.change(|state| state.delete(path, name));
    }

    /// Forgets what happened so far: watches from before that get 410.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Something else happens, so that the version of everything is another.
    pub fn tick(&self) {
        self.change(|state| state.version += 1);
    }

    /// Whether 410 comes as an event of a watch, or as the answer to it.
    pub fn gone_as_event(&self, yes: bool) {
        self.change(|state| state.gone_as_event = yes);
    }

    /// Only who has this token is answered.
    pub fn want_token(&self, token: &str) {
        self.change(|state| state.token = Some(token.to_owned()));
    }

    /// What may not be done: (`list` or `watch`, path); replaces what was said before.
    pub fn forbid(&self, what: &[(&str, &str)]) {
        let what = what.iter().map(|(verb, path)| ((*verb).to_owned(), (*path).to_owned()));
        let what = what.collect();
        self.change(|state| state.forbidden = what);
    }

    /// Answers to requests for this path are this status and text, whatever was asked.
    pub fn answer(&self, path: &str, answer: Option<(u16, &str)>) {
        self.change(|state| match answer {
            None => drop(state.answers.remove(path)),
            Some((status, text)) => {
                drop(state.answers.insert(path.to_owned(), (status, text.to_owned())));
            }
        });
    }

    /// Every answer takes so long.
    pub fn slow(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Lists are cut into pages of at most this many, whatever was asked.
    pub fn pages_of(&self, limit: usize) {
        self.change(|state| state.page = limit);
    }

    /// Something happens to every watch of a path that runs now.
    pub fn trouble(&self, path: &str, trouble: Trouble) {
        self.change(|state| state.troubles.push((path.to_owned(), trouble)));
    }

    /// What was asked so far, `GET` left out: path and query.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// What clients cost since this was last asked, by path.
    #[must_use]
    pub fn take_traffic(&self) -> BTreeMap<String, Traffic> {
        std::mem::take(&mut self.shared.lock().traffic)
    }

    /// Another history, whose versions are lower: etcd was restored from a backup.
    pub fn restore(&self) {
        self.change(|state| {
            state.version = 10;
            state.compacted = 0;
            for collection in state.collections.values_mut() {
                collection.past.clear();
                for object in collection.objects.values_mut() {
                    object["metadata"]["resourceVersion"] = "7".into();
                }
            }
        });
    }

    /// How many watches of this path run now; of one object alone: of path and name.
    #[must_use]
    pub fn watches(&self, path: &str) -> usize {
        self.shared.lock().watches.get(path).copied().unwrap_or(0)
    }

    /// Waits until a path is watched by so many.
    pub fn wait_watched(&self, path: &str, count: usize, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while self.watches(path) != count {
            let asked = self.requests();
            ensure!(
                Instant::now() < end,
                "{} watches of {path} instead of {count}; asked was {asked:#?}",
                self.watches(path)
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Nobody listens any more, and all connections are gone.
    pub fn down(&mut self) {
        self.change(|state| {
            state.is_down = true;
            for socket in state.connections.values() {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        });
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }

    /// Listens, at the same address as before.
    pub fn up(&mut self) -> Result<()> {
        let bind = || {
            TcpListener::bind(self.address)
                .with_context(|| format!("cannot listen at {}", self.address))
        };
        let listener = match &self.netns {
            None => bind()?,
            Some(netns) => netns.run(bind)?,
        };
        // On Linux it bounds accept(), too: so the thread notices the end.
        SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(50)))?;
        self.address = listener.local_addr()?;
        self.shared.lock().is_down = false;
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        self.listener = Some(thread::spawn(move || listen(&listener, &shared, tls.as_ref())));
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.down();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Tls>) {
    let mut threads = BTreeMap::new();
    let mut number = 0_u64;
    while !shared.lock().is_down {
        threads.retain(|_, thread: &mut JoinHandle<()>| !thread.is_finished());
        let Ok((socket, _)) = listener.accept() else { continue };
        let Ok(other) = socket.try_clone() else { continue };
        number += 1;
        {
            let mut state = shared.lock();
            if state.is_down {
                break;
            }
            state.connections.insert(number, other);
        }
        let (shared, tls) = (Arc::clone(shared), tls.cloned());
        let serve = move || {
            // A client that goes away is its own business.
            let _ = serve(socket, &shared, tls.as_ref());
            shared.lock().connections.remove(&number);
        };
        threads.insert(number, thread::spawn(serve));
    }
    for (_, thread) in threads {
        let _ = thread.join();
    }
}

fn serve(socket: TcpStream, shared: &Shared, tls: Option<&Tls>) -> Result<()> {
    // The listener's is inherited: a client that takes its time over a page would lose the
    // connection.
    socket.set_read_timeout(None)?;
    match tls {
        None => connection::serve(socket, shared),
        Some(tls) => connection::serve(tls.accept(socket)?, shared),
    }
}
