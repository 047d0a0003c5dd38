//! Calico's datastore in the Kubernetes API, or the nodes' pod CIDRs where there is
//! none (`host-local`).
//!
//! | module | part |
//! |---|---|
//! | [`access`] | what is read, and with which rights |
//! | `connect` | credentials |
//! | `discovery` | which of Calico's groups the API has |
//! | `follow` | one resource: list, then watch |
//! | `lists` | how soon everything may be asked for |
//! | `whole` | which nodes are read whole, not their metadata alone |
//! | `request` | one question to the API and its answer |
//! | `object` | what an object says |
//! | `cluster` | what all of them say together |
//! | `health` | whether all resources are watched |
//! | `failure` | the API's errors as the sources' own |
//!
//! A session lasts as long as its credentials and the resources it found. When it
//! ends another begins, and lists anew; what is gone is found by comparing, so
//! nothing is forgotten meanwhile.

pub mod access;
mod cluster;
mod connect;
mod discovery;
mod failure;
mod follow;
mod health;
mod lists;
mod object;
mod request;
mod whole;

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::{Receiver, channel};

use self::{
    access::{Kind, Resource},
    cluster::Cluster,
    discovery::Found,
    failure::ends_session,
    follow::{Heard, Mode, follow},
    health::Health,
};
use super::{
    Me, Report, Reporter,
    error::SourceError,
    feed::{self, Afterwards, Feed, Link, Pace},
    servers::Servers,
};
use crate::config::{KubernetesConfig, sources::Borrowed};

/// Events that may wait; a resource's watch is not read on while they do.
const WAITING: usize = 1024;
/// For sessions, and for each resource in them.
const PACE: Pace = Pace {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(15),
    endpoints: 1,
    afterwards: Afterwards::AtOnceAfter(Duration::ZERO),
};

/// Reads and watches until it is dropped.
pub async fn run(config: KubernetesConfig, me: Me, reporter: Reporter) {
    let servers = Servers::new(reporter.clone());
    feed::run(Source { config, me, reporter, servers, cluster: None }, PACE).await;
}

struct Source {
    config: KubernetesConfig,
    me: Me,
    reporter: Reporter,
    servers: Servers,
    cluster: Option<Cluster>,
}

impl Feed for Source {
    /// Runs until the credentials or the resources are no longer what they were.
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError> {
        let api = connect::connect(&self.config).await?;
        // Before the first routes: one of them may lead to the server.
        self.servers.look_up(api.hosts.iter().cloned()).await;
        let wanted = self.config.api;
        let found = discovery::discover(&api, wanted).await?;
        let borrowed = self.config.borrowed;
        let resources = found.resources(borrowed);
        // Objects of another group have the same names, but are others.
        let cluster = match &mut self.cluster {
            Some(cluster) if cluster.found() == found => cluster,
            other => {
                tracing::info!("kubernetes: {api} has {found}");
                other.insert(Cluster::new(found, borrowed, &self.me.name))
            }
        };
        let health = Health::new(&resources);
        let (sender, heard) = channel(WAITING);
        let follow_all = join_all(resources.iter().map(|one| {
            let mode = match (one.kind, borrowed) {
                (Kind::Node, _) => Mode::ByMetadata { with_pods: found == Found::HostLocal },
                (Kind::Block, Borrowed::Polled) => Mode::Polled,
                (Kind::Block | Kind::Affinity | Kind::Pool, _) => Mode::Watched,
            };
            follow(&api, *one, mode, sender.clone())
        }));
        tokio::select! {
            error = listen(heard, cluster, health, &self.reporter, link) => Err(error),
            _ = follow_all => Err(api.endpoint.error("no resource is followed any more")),
            _ = self.servers.follow() => Err(api.endpoint.error("its name is not followed any more")),
            () = discovery::changed(&api, wanted, found) => {
                tracing::info!("kubernetes: {api} has Calico's resources now; reading them");
                Ok(())
            }
        }
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        self.reporter.send(Report::Down(errors.into_iter().collect()));
    }
}

/// Reports what is heard of the resources, until an error ends the session.
async fn listen(
    mut heard: Receiver<(Resource, Heard)>,
    cluster: &mut Cluster,
    mut health: Health,
    reporter: &Reporter,
    link: &mut Link,
) -> SourceError {
    let mut batch = Vec::new();
    loop {
        // Never none: the session has a sender.
        heard.recv_many(&mut batch, WAITING).await;
        let mut is_news_of_health = false;
        for (resource, heard) in batch.drain(..) {
            is_news_of_health |= matches!(heard, Heard::Watching | Heard::Failed(_));
            if let Some(error) = take(cluster, &mut health, resource, heard) {
                return error;
            }
        }
        for report in cluster.reports() {
            // It ends `Down`, which may last.
            is_news_of_health |= matches!(report, Report::Snapshot { .. });
            reporter.send(report);
        }
        if is_news_of_health {
            health.report().into_iter().for_each(|report| reporter.send(report));
        }
        if health.is_up() {
            link.up();
        }
    }
}

/// Takes in one thing that was heard; what ends the session.
fn take(
    cluster: &mut Cluster,
    health: &mut Health,
    resource: Resource,
    heard: Heard,
) -> Option<SourceError> {
    match heard {
        Heard::Listed(objects) => cluster.replace(resource.kind, objects),
        Heard::Applied(object) => cluster.apply(resource.kind, object),
        Heard::Deleted(name) => cluster.delete(resource.kind, &name),
        Heard::Watching => health.watching(resource),
        Heard::Failed(error) if ends_session(&error) => return Some(error),
        Heard::Failed(error) => health.failing(resource, error),
    }
    None
}
