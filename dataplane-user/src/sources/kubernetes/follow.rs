//! One topic: list, then watch from there, or list again about once an hour. The plan says which of
//! it, and may change at any time.
//!
//! In the place of `kube::runtime::watcher` (5.0), which does not report that a watch
//! was accepted again, so the source could not be reported as up; which never lists
//! again when the API answers 410 to a watch (only when 410 comes as an event,
//! kube-rs#1042); and which asks without a pause when the API accepts a watch and
//! closes it at once.

use std::{collections::HashSet, convert::Infallible, future, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::{mpsc::Sender, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Voice,
    access::{Kind, Resource},
    connect::Api,
    failure::{self, Attempt},
    lists::Lists,
    object::{self, Object},
    plan::{Plan, Topic},
    request::{self, Ask, Freshness, Part},
    whole::Whole,
};
use crate::sources::{
    error::{Cause, SourceError},
    feed::{self, Feed, Link},
    reads::{Pace, until_next_poll},
};

/// A watch that lasts this long, or brings anything, works.
const PROBATION: Duration = Duration::from_secs(1);
/// A watch that is silent for so long is asked for anew: the API may be gone
/// without a word. Its bookmarks come about every minute.
const SILENCE: Duration = Duration::from_secs(100);

/// A pause before a new list that is longer than this is reported.
const SAID: Duration = Duration::from_secs(5);
/// What is polled is watched from its last list, if that is not older.
const RECENT: Duration = Duration::from_secs(60);

/// What became known of a topic.
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

/// What is followed, for whom.
#[derive(Clone)]
pub struct Subject {
    /// What.
    pub topic: Topic,
    /// The resource it is in.
    pub resource: Resource,
    /// The one object of this name.
    pub name: Option<String>,
    /// Of nodes: whether pod CIDRs are wanted, which no metadata has. Else only their metadata is
    /// read, and whole objects by name where it does not say all.
    pub with_pods: bool,
}

/// Follows a topic as the plan says, and sends all it hears to `to`.
pub async fn follow(
    api: &Api,
    subject: Subject,
    plan: watch::Receiver<Plan>,
    to: Sender<(Voice, Heard)>,
) -> Infallible {
    let follower = Follower {
        api,
        subject,
        plan,
        to,
        version: None,
        freshness: Freshness::Cached,
        reason: Reason::Start,
        listed_at: None,
        lists: Lists::default(),
        whole: Whole::default(),
    };
    feed::run(follower, super::PACE).await
}

/// Why everything is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// Nothing is known, or the plan has changed.
    Start,
    /// It is time.
    Poll,
    /// The API has no history from the known version on.
    Lost,
}

struct Follower<'a> {
    api: &'a Api,
    subject: Subject,
    plan: watch::Receiver<Plan>,
    to: Sender<(Voice, Heard)>,
    /// Where the watch goes on; `None`: everything has to be listed (again).
    version: Option<String>,
    /// How old the next list may be.
    freshness: Freshness,
    /// Why the next list is made.
    reason: Reason,
    listed_at: Option<Instant>,
    lists: Lists,
    whole: Whole,
}

impl Feed for Follower<'_> {
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError> {
        let topic = self.subject.topic;
        let pace = self.until_wanted().await;
        let version = match self.version.clone() {
            Some(version) => version,
            None => {
                let (objects, version) = self.list().await?;
                self.send(Heard::Listed(objects)).await;
                self.version.insert(version).clone()
            }
        };
        let mut plan = self.plan.clone();
        let changed = until(&mut plan, |plan| plan.pace(topic) != Some(pace));
        match pace {
            Pace::Polled => {
                link.up();
                self.send(Heard::Watching).await;
                tokio::select! {
                    () = sleep(until_next_poll()) => self.list_again(Reason::Poll),
                    () = changed => {
                        // Of blocks whose they are was left out.
                        let is_old = self.listed_at.is_none_or(|at| at.elapsed() > RECENT);
                        if is_old || topic == Topic::Blocks {
                            self.list_again(Reason::Start);
                        }
                    }
                }
                Ok(())
            }
            Pace::Followed => tokio::select! {
                ended = self.watch(&version, link) => ended,
                () = changed => Ok(()),
            },
        }
    }

    fn start_over(&mut self) {
        self.list_again(Reason::Lost);
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        for error in errors {
            self.send(Heard::Failed(error)).await;
        }
    }
}

/// Returns once the plan is so.
async fn until(plan: &mut watch::Receiver<Plan>, is_so: impl FnMut(&Plan) -> bool) {
    if plan.wait_for(is_so).await.is_err() {
        // The session has ended.
        future::pending::<()>().await;
    }
}

impl Follower<'_> {
    /// Returns how the topic is read, as soon as it is.
    async fn until_wanted(&mut self) -> Pace {
        let topic = self.subject.topic;
        loop {
            if let Some(pace) = self.plan.borrow_and_update().pace(topic) {
                return pace;
            }
            // What is known is too old when it is read again.
            self.list_again(Reason::Start);
            until(&mut self.plan, |plan| plan.pace(topic).is_some()).await;
        }
    }

    fn list_again(&mut self, reason: Reason) {
        // Not what an API server that lags behind has: that may be older than what we know.
        if let Some(version) = self.version.take() {
            self.freshness = Freshness::NotOlderThan(version);
            self.reason = reason;
        }
    }

    fn is_by_metadata(&self) -> bool {
        self.subject.resource.kind == Kind::Node
    }

    fn part(&self) -> Part {
        if self.is_by_metadata() { Part::Metadata } else { Part::Whole }
    }

    fn ask(&self, part: Part) -> Ask {
        let Subject { resource, name, .. } = self.subject.clone();
        Ask { resource, part, freshness: self.freshness.clone(), name }
    }

    /// Everything there is, not sooner than a fleet of this size may ask for it.
    async fn list(&mut self) -> Result<(Vec<Object>, String), SourceError> {
        let pause = match self.reason {
            Reason::Start | Reason::Lost => self.lists.pause(Instant::now()),
            // Its moment is random already.
            Reason::Poll => self.lists.at_least(Instant::now()),
        };
        if self.reason == Reason::Lost && pause > SAID {
            let what = format!(
                "the history of {} is gone; all of them are read again within {} s",
                self.subject.resource,
                pause.as_secs() + 1
            );
            self.send(Heard::Failed(self.api.endpoint.error(what))).await;
        }
        sleep(pause).await;
        let listed = self.list_now().await;
        match &listed {
            Ok((objects, _)) => {
                self.listed_at = Some(Instant::now());
                self.lists.listed(objects.len(), Instant::now());
            }
            // The cache does not reach that version, maybe never: etcd was restored.
            Err(error) if error.cause() == Cause::Gone => self.freshness = Freshness::Latest,
            Err(_) => {}
        }
        listed
    }

    async fn list_now(&mut self) -> Result<(Vec<Object>, String), SourceError> {
        if !self.is_by_metadata() {
            return request::list(self.api, &self.ask(Part::Whole)).await;
        }
        let with_pods = self.subject.with_pods;
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
        if !self.is_by_metadata() || object.is_complete(self.subject.with_pods) {
            self.whole.forget(&object.name);
            return Ok(Some(object));
        }
        if !self.whole.is_due(&object.name, Instant::now()) {
            return Ok(None);
        }
        self.read_whole(&object.name, version).await
    }

    /// Watches from a version on.
    async fn watch(&mut self, version: &str, link: &mut Link) -> Result<(), SourceError> {
        let api = self.api;
        let events = request::watch(api, &self.ask(self.part()), version).await?;
        self.read(pin!(events), link).await
    }

    /// Reads a watch until it ends: `Ok` if it had worked.
    async fn read(
        &mut self,
        mut events: impl Stream<Item = Result<WatchEvent<Value>, SourceError>> + Unpin,
        link: &mut Link,
    ) -> Result<(), SourceError> {
        let attempt = Attempt::Watch(self.subject.resource);
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
                (Some(Heard::Applied(object::read(self.subject.resource.kind, value))), version)
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
        let _ = self.to.send((Voice::Topic(self.subject.topic), heard)).await;
    }
}
