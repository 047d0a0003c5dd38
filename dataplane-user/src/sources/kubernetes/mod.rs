//! Calico's datastore in the Kubernetes API, or the nodes' pod CIDRs where there is
//! none (`host-local`).
//!
//! | module | part |
//! |---|---|
//! | [`access`] | what is read, and with which rights |
//! | `connect` | credentials |
//! | `discovery` | which of Calico's groups the API has |
//! | `follow` | one resource: list, then watch |
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
mod object;
mod request;

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::channel;

use self::{
    access::Resource,
    cluster::Cluster,
    failure::ends_session,
    follow::{Heard, follow},
    health::Health,
};
use super::{Me, Report, Reporter, backoff::Backoff, error::SourceError};
use crate::config::KubernetesConfig;

/// Events that may wait; a resource's watch is not read on while they do.
const WAITING: usize = 1024;
/// The pause after the first failure; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Reads and watches, for ever.
pub async fn run(config: KubernetesConfig, me: Me, reporter: Reporter) {
    let mut backoff = backoff();
    let mut cluster = None;
    loop {
        match session(&config, &me, &mut cluster, &reporter, &mut backoff).await {
            Ok(()) => {
                tracing::info!(
                    "kubernetes: Calico's resources have come; they are read from now on"
                );
            }
            Err(error) => reporter.send(Report::Down(error.into())),
        }
        backoff.pause().await;
    }
}

fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Runs until the credentials or the resources are no longer what they were. `Ok` if
/// there are now other resources to read.
async fn session(
    config: &KubernetesConfig,
    me: &Me,
    cluster: &mut Option<Cluster>,
    reporter: &Reporter,
    backoff: &mut Backoff,
) -> Result<(), SourceError> {
    let api = connect::connect(config).await?;
    let found = discovery::discover(&api, config.api).await?;
    let resources = found.resources();
    // Objects of another group have the same names, but are others.
    let cluster = match cluster {
        Some(cluster) if cluster.found() == found => cluster,
        other => {
            tracing::info!("kubernetes: {api} has {found}");
            other.insert(Cluster::new(found, &me.name))
        }
    };
    let mut health = Health::new(&resources);
    let (sender, mut heard) = channel(WAITING);
    let follow_all = join_all(resources.iter().map(|one| follow(&api, *one, sender.clone())));
    let listen = async {
        let mut batch = Vec::new();
        loop {
            // Never none: `sender` is alive.
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
                backoff.reset();
            }
        }
    };
    tokio::select! {
        error = listen => Err(error),
        _ = follow_all => Err(api.endpoint.error("no resource is followed any more")),
        () = discovery::changed(&api, config.api, found) => Ok(()),
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
