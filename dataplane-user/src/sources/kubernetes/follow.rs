//! One resource: list, then watch from there.
//!
//! In the place of `kube::runtime::watcher` (5.0), which does not report that a watch
//! was accepted again, so the source could not be reported as up; which never lists
//! again when the API answers 410 to a watch (only when 410 comes as an event,
//! kube-rs#1042); and which asks without a pause when the API accepts a watch and
//! closes it at once.

use std::{collections::HashSet, convert::Infallible, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout},
};

use super::{
    access::Resource,
    connect::Api,
    failure::{self, Attempt},
    lists::{self, Lists},
    object::{self, Object},
    request::{self, Ask, Freshness, Part},
    whole::Whole,
};
use crate::sources::{
    error::{Cause, SourceError},
    feed::{self, Feed, Link},
};

/// A watch that lasts this long, or brings anything, works.
const PROBATION: Duration = Duration::from_secs(1);
/// A watch that is silent for so long is asked for anew: the API may be gone
/// without a word. Its bookmarks come about every minute.
const SILENCE: Duration = Duration::from_secs(100);

/// A pause before a new list that is longer than this is reported.
const SAID: Duration = Duration::from_secs(5);

/// What became known of a resource.
#[derive(Debug)]
pub enum Heard {
    /// All objects there are.
    Listed(Vec<Object>),
    /// An object is so now.
    Applied(Object),
    /// The object of this name is gone.
    Deleted(String),
    /// Changes are heard from now on, and none was missed.
    Watching,
    /// They are not, until [`Heard::Watching`]; it is tried again.
    Failed(SourceError),
}

/// How a resource is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Listed, then watched.
    Watched,
    /// Of nodes: likewise, but for their metadata. Whole objects are asked for by name, where
    /// the metadata does not have all; `with_pods`: the pod CIDRs never are in it.
    ByMetadata {
        /// Whether pod CIDRs are wanted.
        with_pods: bool,
    },
    /// Listed about once in an hour.
    Polled,
}

/// Follows a resource and sends all it hears to `to`.
pub async fn follow(
    api: &Api,
    resource: Resource,
    mode: Mode,
    to: Sender<(Resource, Heard)>,
) -> Infallible {
    let follower = Follower {
        api,
        resource,
        mode,
        to,
        version: None,
        freshness: Freshness::Cached,
        lists: Lists::default(),
        whole: Whole::default(),
    };
    feed::run(follower, super::PACE).await
}

struct Follower<'a> {
    api: &'a Api,
    resource: Resource,
    mode: Mode,
    to: Sender<(Resource, Heard)>,
    /// Where the watch goes on; `None`: everything has to be listed (again).
    version: Option<String>,
    /// How old the next list may be.
    freshness: Freshness,
    lists: Lists,
    whole: Whole,
}

impl Feed for Follower<'_> {
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => {
                let (objects, version) = self.list().await?;
                self.send(Heard::Listed(objects)).await;
                self.version.insert(version).clone()
            }
        };
        if self.mode == Mode::Polled {
            link.up();
            self.send(Heard::Watching).await;
            sleep(lists::until_next_poll()).await;
            self.start_over();
            return Ok(());
        }
        let events = request::watch(self.api, self.resource, self.part(), &version).await?;
        self.read(pin!(events), link).await
    }

    fn start_over(&mut self) {
        // Not what an API server that lags behind has: that may be older than what we know.
        if let Some(version) = self.version.take() {
            self.freshness = Freshness::NotOlderThan(version);
        }
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        for error in errors {
            self.send(Heard::Failed(error)).await;
        }
    }
}

impl Follower<'_> {
    fn part(&self) -> Part {
        match self.mode {
            Mode::ByMetadata { .. } => Part::Metadata,
            Mode::Watched | Mode::Polled => Part::Whole,
        }
    }

    fn ask(&self, part: Part) -> Ask {
        let freshness = self.freshness.clone();
        Ask { resource: self.resource, part, freshness, name: None }
    }

    /// Everything there is, not sooner than a fleet of this size may ask for it.
    async fn list(&mut self) -> Result<(Vec<Object>, String), SourceError> {
        let pause = self.lists.pause(Instant::now());
        if pause > SAID {
            let what = format!(
                "the history of {} is gone; all of them are read again within {} s",
                self.resource,
                pause.as_secs() + 1
            );
            self.send(Heard::Failed(self.api.endpoint.error(what))).await;
        }
        sleep(pause).await;
        let listed = self.list_now().await;
        match &listed {
            Ok((objects, _)) => self.lists.listed(objects.len(), Instant::now()),
            // The cache does not reach that version, maybe never: etcd was restored.
            Err(error) if error.cause() == Cause::Gone => self.freshness = Freshness::Latest,
            Err(_) => {}
        }
        listed
    }

    async fn list_now(&mut self) -> Result<(Vec<Object>, String), SourceError> {
        let with_pods = match self.mode {
            Mode::ByMetadata { with_pods } => with_pods,
            Mode::Watched | Mode::Polled => {
                return request::list(self.api, &self.ask(Part::Whole)).await;
            }
        };
        let mut lacking = HashSet::new();
        if !with_pods {
            let (mut objects, version) = request::list(self.api, &self.ask(Part::Metadata)).await?;
            let names = objects.iter().filter(|object| !object.is_complete(false));
            lacking = names.map(|object| object.name.clone()).collect();
            if lacking.len() <= Whole::FEW {
                self.whole.expect(lacking.len());
                for object in objects.iter_mut().filter(|object| lacking.contains(&object.name)) {
                    let name = object.name.clone();
                    if let Some(whole) = self.read_whole(&name, &version).await? {
                        *object = whole;
                    }
                }
                return Ok((objects, version));
            }
        }
        // One question is cheaper than one for each.
        let (objects, version) = request::list(self.api, &self.ask(Part::Whole)).await?;
        let names = objects.iter().map(|object| object.name.as_str());
        let read: Vec<&str> = names.filter(|name| with_pods || lacking.contains(*name)).collect();
        self.whole.expect(read.len());
        self.whole.read_all(read.into_iter(), Instant::now());
        Ok((objects, version))
    }

    /// The object of this name, not older than `version`; `None` if it is gone meanwhile.
    async fn read_whole(
        &mut self,
        name: &str,
        version: &str,
    ) -> Result<Option<Object>, SourceError> {
        let freshness = Freshness::NotOlderThan(version.to_owned());
        let ask = Ask { name: Some(name.to_owned()), freshness, ..self.ask(Part::Whole) };
        let found = request::list(self.api, &ask).await?.0.pop();
        self.whole.read(name, Instant::now());
        Ok(found)
    }

    /// What an event's object comes to: the whole of it where metadata alone does not say all.
    /// `None`: what is known of it counts on.
    async fn complete(
        &mut self,
        object: Object,
        version: &str,
    ) -> Result<Option<Object>, SourceError> {
        let Mode::ByMetadata { with_pods } = self.mode else { return Ok(Some(object)) };
        if object.is_complete(with_pods) {
            self.whole.forget(&object.name);
            return Ok(Some(object));
        }
        if !self.whole.is_due(&object.name, Instant::now()) {
            return Ok(None);
        }
        self.read_whole(&object.name, version).await
    }

    /// Reads a watch until it ends: `Ok` if it had worked.
    async fn read(
        &mut self,
        mut events: impl Stream<Item = Result<WatchEvent<Value>, SourceError>> + Unpin,
        link: &mut Link,
    ) -> Result<(), SourceError> {
        let attempt = Attempt::Watch(self.resource);
        let mut works = false;
        loop {
            let patience = if works { SILENCE } else { PROBATION };
            let event = match timeout(patience, events.next()).await {
                Err(_) | Ok(None) if works => return Ok(()),
                Err(_) => None,
                Ok(None) => {
                    let what = format!("closes the connection at once when we {attempt}");
                    return Err(self.api.endpoint.error(what));
                }
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    let error = kube::Error::Api(status);
                    return Err(failure::of(&self.api.endpoint, attempt, &error));
                }
                Ok(Some(event)) => Some(event?),
            };
            if !works {
                works = true;
                link.up();
                self.send(Heard::Watching).await;
            }
            let Some(event) = event else { continue };
            let (heard, now) = self.understand(event);
            let heard = match heard {
                Some(Heard::Applied(object)) => {
                    let version = now.as_deref().unwrap_or_default();
                    self.complete(object, version).await?.map(Heard::Applied)
                }
                Some(Heard::Deleted(name)) => {
                    self.whole.forget(&name);
                    Some(Heard::Deleted(name))
                }
                heard => heard,
            };
            if let Some(heard) = heard {
                self.send(heard).await;
            }
            if let Some(now) = now.filter(|now| !now.is_empty()) {
                self.version = Some(now);
            }
        }
    }

    /// What an event says, and the version it stands for.
    fn understand(&self, event: WatchEvent<Value>) -> (Option<Heard>, Option<String>) {
        match event {
            WatchEvent::Added(value) | WatchEvent::Modified(value) => {
                let version = object::version(&value);
                (Some(Heard::Applied(object::read(self.resource.kind, value))), version)
            }
            WatchEvent::Deleted(value) => {
                (object::name(&value).map(Heard::Deleted), object::version(&value))
            }
            WatchEvent::Bookmark(bookmark) => (None, Some(bookmark.metadata.resource_version)),
            // The caller's.
            WatchEvent::Error(_) => (None, None),
        }
    }

    async fn send(&self, heard: Heard) {
        // The receiver goes when the session ends, and this future with it.
        let _ = self.to.send((self.resource, heard)).await;
    }
}
