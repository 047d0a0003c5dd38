//! Objects, what happened to them, and what is to go wrong.

use std::{
    collections::{BTreeMap, HashSet},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

/// What happens to a watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// A bookmark, which is no trouble.
    Bookmark,
    /// The server ends it, as it does after some time.
    Close,
    /// The connection breaks in the middle of an event.
    Break,
    /// This text, in place of an event.
    Text(String),
    /// An `ERROR` event with this code.
    Error(u16),
}

/// What clients cost at a path.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// How many requests came.
    pub requests: usize,
    /// Bytes of bodies and events that were sent.
    pub bytes: usize,
}

/// The objects of a kind, and their past.
pub struct Collection {
    /// `IPAMBlock`.
    pub(super) kind: &'static str,
    pub(super) objects: BTreeMap<String, Value>,
    /// Version, `ADDED` …, the object.
    pub(super) past: Vec<(u64, &'static str, Value)>,
}

impl Collection {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, objects: BTreeMap::new(), past: Vec::new() }
    }
}

/// Everything.
pub(super) struct State {
    pub version: u64,
    /// Nothing is known any more of what happened up to here.
    pub compacted: u64,
    pub collections: BTreeMap<String, Collection>,
    pub token: Option<String>,
    pub forbidden: HashSet<(String, String)>,
    pub answers: BTreeMap<String, (u16, String)>,
    pub delay: Duration,
    pub page: usize,
    pub gone_as_event: bool,
    /// Path and trouble, of all times: watches begin with those yet to come.
    pub troubles: Vec<(String, Trouble)>,
    pub requests: Vec<String>,
    pub traffic: BTreeMap<String, Traffic>,
    pub watches: BTreeMap<String, usize>,
    pub connections: BTreeMap<u64, TcpStream>,
    pub is_down: bool,
}

impl State {
    pub fn new() -> Self {
        Self {
            version: 1000,
            compacted: 0,
            collections: BTreeMap::new(),
            token: None,
            forbidden: HashSet::new(),
            answers: BTreeMap::new(),
            delay: Duration::ZERO,
            page: usize::MAX,
            gone_as_event: true,
            troubles: Vec::new(),
            requests: Vec::new(),
            traffic: BTreeMap::new(),
            watches: BTreeMap::new(),
            connections: BTreeMap::new(),
            is_down: false,
        }
    }

    pub fn set(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let version = self.version;
        let collection = self.collection(path);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let is_new = collection.objects.insert(name, object.clone()).is_none();
        let what = if is_new { "ADDED" } else { "MODIFIED" };
        collection.past.push((version, what, object));
    }

    pub fn delete(&mut self, path: &str, name: &str) {
        self.version += 1;
        let version = self.version;
        let collection = self.collection(path);
        if let Some(mut object) = collection.objects.remove(name) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            collection.past.push((version, "DELETED", object));
        }
    }

    pub fn count(&mut self, path: &str, requests: usize, bytes: usize) {
        let traffic = self.traffic.entry(path.to_owned()).or_default();
        traffic.requests += requests;
        traffic.bytes += bytes;
    }

    pub fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
        for collection in self.collections.values_mut() {
            collection.past.clear();
        }
    }

    #[expect(clippy::panic, reason = "a test that asks for what is not served is wrong")]
    fn collection(&mut self, path: &str) -> &mut Collection {
        self.collections.get_mut(path).unwrap_or_else(|| panic!("{path} is not served"))
    }
}
