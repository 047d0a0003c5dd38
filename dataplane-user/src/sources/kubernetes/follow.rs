//! One resource: list, then watch from there.
//!
//! In the place of `kube::runtime::watcher` (5.0), which does not report that a watch
//! was accepted again, so the source could not be reported as up; which never lists
//! again when the API answers 410 to a watch (only when 410 comes as an event,
//! kube-rs#1042); and which asks without a pause when the API accepts a watch and
//! closes it at once.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::api::WatchEvent;
use serde_json::Value;
use tokio::{sync::mpsc::Sender, time::timeout};

use super::{
    access::Resource,
    connect::Api,
    failure::{self, Attempt},
    object::{self, Object},
    request,
};
use crate::sources::{
    error::SourceError,
    feed::{self, Feed, Link},
};

/// A watch that lasts this long, or brings anything, works.
const PROBATION: Duration = Duration::from_secs(1);
/// A watch that is silent for so long is asked for anew: the API may be gone
/// without a word. Its bookmarks come about every minute.
const SILENCE: Duration = Duration::from_secs(100);

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

/// Follows a resource and sends all it hears to `to`.
pub async fn follow(api: &Api, resource: Resource, to: Sender<(Resource, Heard)>) -> Infallible {
    feed::run(Follower { api, resource, to, version: None }, super::PACE).await
}

struct Follower<'a> {
    api: &'a Api,
    resource: Resource,
    to: Sender<(Resource, Heard)>,
    /// Where the watch goes on; `None`: everything has to be listed (again).
    version: Option<String>,
}

impl Feed for Follower<'_> {
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => {
                let (objects, version) = request::list(self.api, self.resource).await?;
                self.send(Heard::Listed(objects)).await;
                self.version.insert(version).clone()
            }
        };
        let events = request::watch(self.api, self.resource, &version).await?;
        self.read(pin!(events), link).await
    }

    fn start_over(&mut self) {
        self.version = None;
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        for error in errors {
            self.send(Heard::Failed(error)).await;
        }
    }
}

impl Follower<'_> {
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
