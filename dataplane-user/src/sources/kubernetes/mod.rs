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
//! | `told` | whether the source is up, as the daemon was told |
//! | `failure` | errors, in one line |
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
mod object;
mod request;
mod told;

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::channel;

use self::{
    access::Resource,
    cluster::Cluster,
    failure::Failure,
    follow::{Heard, follow},
    told::Told,
};
use super::{Me, Report, Reporter, backoff::Backoff};
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
    let mut told = Told::new(reporter);
    loop {
        let failure = session(&config, &me, &mut cluster, &mut told, &mut backoff).await;
        told.down(&failure);
        backoff.pause().await;
    }
}

fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Until the credentials or the resources are no longer what they were; why.
async fn session(
    config: &KubernetesConfig,
    me: &Me,
    cluster: &mut Option<Cluster>,
    told: &mut Told,
    backoff: &mut Backoff,
) -> Failure {
    let api = match connect::connect(config).await {
        Ok(api) => api,
        Err(failure) => return failure,
    };
    let found = match discovery::discover(&api, config.api).await {
        Ok(found) => found,
        Err(failure) => return failure,
    };
    let resources = found.resources();
    // Objects of another group have the same names, but are others.
    let cluster = match cluster {
        Some(cluster) if cluster.found() == found => cluster,
        other => {
            tracing::info!("kubernetes: {api} has {found}");
            other.insert(Cluster::new(found, &me.name))
        }
    };
    told.begin(&resources);
    let (sender, mut heard) = channel(WAITING);
    let follow_all = join_all(resources.iter().map(|one| follow(&api, *one, sender.clone())));
    let listen = async {
        let mut batch = Vec::new();
        loop {
            // Never none: `sender` is alive.
            heard.recv_many(&mut batch, WAITING).await;
            for (resource, heard) in batch.drain(..) {
                if let Some(failure) = take(cluster, told, resource, heard) {
                    return failure;
                }
            }
            report(cluster, told);
            if told.are_all_watched() {
                backoff.reset();
            }
        }
    };
    tokio::select! {
        failure = listen => failure,
        _ = follow_all => Failure::other(&api, "no resource is followed any more"),
        () = discovery::changed(&api, config.api, found) => {
            Failure::other(&api, "Calico's resources have come, and are read from now on")
        }
    }
}

/// Takes in one thing that was heard; what ends the session.
fn take(
    cluster: &mut Cluster,
    told: &mut Told,
    resource: Resource,
    heard: Heard,
) -> Option<Failure> {
    match heard {
        Heard::Listed(objects) => cluster.replace(resource.kind, objects),
        Heard::Applied(object) => cluster.apply(resource.kind, object),
        Heard::Deleted(name) => cluster.delete(resource.kind, &name),
        Heard::Watching => told.watching(resource),
        Heard::Failed(failure) if failure.ends_session() => return Some(failure),
        Heard::Failed(failure) => told.failing(resource, failure),
    }
    None
}

/// Tells what became of it.
fn report(cluster: &mut Cluster, told: &mut Told) {
    let reports = cluster.reports();
    let is_snapshot = reports.iter().any(|report| matches!(report, Report::Snapshot { .. }));
    for report in reports {
        told.send(report);
    }
    if is_snapshot {
        told.spoke();
    }
    told.state();
}
