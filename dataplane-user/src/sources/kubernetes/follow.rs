//! One resource: list, then watch from there, for ever.
//!
//! Like `kube::runtime::watcher`, with what that lacks (5.0): it does not tell that a
//! watch was accepted again, so nobody could say that the API is back; it never
//! lists anew when the API answers 410 to a watch (only when 410 comes as an event);
//! it asks without a pause when the API accepts a watch and closes it at once.

use std::{pin::pin, time::Duration};

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
    backoff::Backoff,
    error::{Cause, SourceError},
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

/// How a watch ended.
enum Ended {
    /// As watches do after some time.
    Well,
    /// It does not know any more what happened since.
    Gone,
    /// In some other way.
    Badly(SourceError),
}

/// Tells all it hears.
pub async fn follow(api: &Api, resource: Resource, to: Sender<(Resource, Heard)>) {
    let mut follower = Follower { api, resource, to, backoff: super::backoff(), breaks: 0 };
    loop {
        match request::list(api, resource).await {
            Ok((objects, version)) => {
                follower.tell(Heard::Listed(objects)).await;
                follower.watch(version).await;
            }
            Err(failure) => follower.failed(failure).await,
        }
    }
}

struct Follower<'a> {
    api: &'a Api,
    resource: Resource,
    to: Sender<(Resource, Heard)>,
    backoff: Backoff,
    /// How many watches in a row broke before they had proved to work.
    breaks: u32,
}

impl Follower<'_> {
    /// Until everything has to be listed anew.
    async fn watch(&mut self, mut version: String) {
        loop {
            let ended = match request::watch(self.api, self.resource, &version).await {
                Ok(events) => self.read(pin!(events), &mut version).await,
                Err(failure) if failure.cause() == Cause::Gone => Ended::Gone,
                Err(failure) => {
                    self.failed(failure).await;
                    continue;
                }
            };
            match ended {
                Ended::Well => {}
                Ended::Gone => {
                    tracing::debug!("{}: {} are listed anew", self.api, self.resource);
                    // Should that go round in circles, then not too fast.
                    self.broke(None).await;
                    return;
                }
                Ended::Badly(failure) => self.broke(Some(failure)).await,
            }
        }
    }

    async fn read(
        &mut self,
        mut events: impl Stream<Item = Result<WatchEvent<Value>, SourceError>> + Unpin,
        version: &mut String,
    ) -> Ended {
        let attempt = Attempt::Watch(self.resource);
        let mut works = false;
        loop {
            let patience = if works { SILENCE } else { PROBATION };
            let event = match timeout(patience, events.next()).await {
                Err(_) | Ok(None) if works => return Ended::Well,
                Err(_) => {
                    works = true;
                    self.works().await;
                    continue;
                }
                Ok(None) => {
                    let what = format!("closes the connection at once when we {attempt}");
                    return Ended::Badly(self.api.endpoint.error(what));
                }
                Ok(Some(Err(failure))) => return Ended::Badly(failure),
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    let error = kube::Error::Api(status);
                    let failure = failure::of(&self.api.endpoint, attempt, &error);
                    let is_gone = failure.cause() == Cause::Gone;
                    return if is_gone { Ended::Gone } else { Ended::Badly(failure) };
                }
                Ok(Some(Ok(event))) => event,
            };
            if !works {
                works = true;
                self.works().await;
            }
            let (heard, now) = self.understand(event);
            if let Some(heard) = heard {
                self.tell(heard).await;
            }
            if let Some(now) = now.filter(|now| !now.is_empty()) {
                *version = now;
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

    async fn works(&mut self) {
        self.breaks = 0;
        self.backoff.reset();
        self.tell(Heard::Watching).await;
    }

    async fn failed(&mut self, failure: SourceError) {
        self.tell(Heard::Failed(failure)).await;
        self.backoff.pause().await;
    }

    /// Connections break now and then, and are made again before anybody has to
    /// hear of it. Not so the second time.
    async fn broke(&mut self, failure: Option<SourceError>) {
        if self.breaks > 0 {
            if let Some(failure) = failure {
                self.tell(Heard::Failed(failure)).await;
            }
            self.backoff.pause().await;
        }
        self.breaks = self.breaks.saturating_add(1);
    }

    async fn tell(&self, heard: Heard) {
        // Nobody listens any more when the session ends, and we with it.
        let _ = self.to.send((self.resource, heard)).await;
    }
}
