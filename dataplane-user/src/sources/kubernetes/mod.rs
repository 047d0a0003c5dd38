//! Calico's datastore in the Kubernetes API, or the nodes' pod CIDRs where there is
//! none (`host-local`).
//!
//! | module | part |
//! |---|---|
//! | [`access`] | what is read, and with which rights |
//! | `connect` | credentials |
//! | `discovery` | which of Calico's groups the API has |
//! | [`plan`] | what is read, and how closely |
//! | `follow` | one topic: list, then watch, or list again later |
//! | `by_name` | nodes that are asked for by name, where all are polled |
//! | `lists` | how soon everything may be asked for |
//! | `backends` | the API servers' own addresses |
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
mod backends;
mod by_name;
mod cluster;
mod connect;
mod discovery;
mod failure;
mod follow;
mod health;
mod lists;
mod object;
pub mod plan;
mod request;
mod whole;

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{
    mpsc::{Receiver, UnboundedSender, channel, unbounded_channel},
    watch,
};

use self::{
    by_name::Names,
    cluster::Cluster,
    discovery::Found,
    failure::ends_session,
    follow::{Heard, Subject, follow},
    health::Health,
    plan::{Plan, Topic, Wanted},
};
use super::{
    Me, Report, Reporter,
    error::{Cause, SourceError},
    feed::{self, Afterwards, Feed, Link, Pace},
    servers::Servers,
};
use crate::config::KubernetesConfig;

/// Events that may wait; a topic's watch is not read on while they do.
const WAITING: usize = 1024;
/// For sessions, and for each topic in them.
const PACE: Pace = Pace {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(15),
    endpoints: 1,
    afterwards: Afterwards::AtOnceAfter(Duration::ZERO),
};

/// Reads and watches until it is dropped.
pub async fn run(config: KubernetesConfig, me: Me, reporter: Reporter) {
    let servers = Servers::new(reporter.clone(), Report::Servers);
    let backends = Servers::new(reporter.clone(), Report::Backends);
    feed::run(Source { config, me, reporter, servers, backends, cluster: None }, PACE).await;
}

struct Source {
    config: KubernetesConfig,
    me: Me,
    reporter: Reporter,
    servers: Servers,
    backends: Servers,
    cluster: Option<Cluster>,
}

impl Feed for Source {
    /// Runs until the credentials or the resources are no longer what they were.
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError> {
        let api = connect::connect(&self.config).await?;
        // Before the first routes: one of them may lead to the server.
        self.servers.look_up(api.hosts.iter().cloned()).await;
        let right = backends::look_up(&api, &mut self.backends).await;
        let found = discovery::discover(&api, self.config.api).await?;
        let wanted = Wanted { nodes: self.config.nodes, borrowed: self.config.borrowed };
        // Objects of another group have the same names, but are others.
        let cluster = match &mut self.cluster {
            Some(cluster) if cluster.found() == found => cluster,
            other => {
                tracing::info!("kubernetes: {api} has {found}");
                other.insert(Cluster::new(found, wanted, &self.me.name))
            }
        };
        cluster.begin(right);
        let first = cluster.plan();
        let (plan, plans) = watch::channel(first);
        let (sender, heard) = channel(WAITING);
        let (unheard, names) = unbounded_channel();
        let follow_all = join_all(Topic::ALL.into_iter().filter_map(|topic| {
            let subject = Subject {
                topic,
                resource: topic.resource(found)?,
                name: (topic == Topic::OwnNode).then(|| self.me.name.clone()),
                with_pods: found == Found::HostLocal,
            };
            Some(follow(&api, subject, plans.clone(), sender.clone()))
        }));
        let listener = Listener {
            health: Health::new(first.topics()),
            cluster,
            plan,
            unheard,
            reporter: &self.reporter,
        };
        tokio::select! {
            error = listener.listen(heard, link) => Err(error),
            _ = follow_all => Err(api.endpoint.error("no resource is followed any more")),
            _ = by_name::run(&api, names, sender.clone()) => {
                Err(api.endpoint.error("no node is asked for by name any more"))
            }
            () = backends::follow(&api, &mut self.backends, right) => {
                tracing::info!("kubernetes: {api} has other rights for us now");
                Ok(())
            }
            _ = self.servers.follow() => Err(api.endpoint.error("its name is not followed any more")),
            () = discovery::changed(&api, self.config.api, found) => {
                tracing::info!("kubernetes: {api} has Calico's resources now; reading them");
                Ok(())
            }
        }
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        self.reporter.send(Report::Down(errors.into_iter().collect()));
    }
}

/// Whose word it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Voice {
    /// A topic's.
    Topic(Topic),
    /// A node's that was asked for by name.
    ByName,
}

/// Takes in what is heard, reports it, and decides what is read.
struct Listener<'a> {
    health: Health,
    cluster: &'a mut Cluster,
    plan: watch::Sender<Plan>,
    unheard: UnboundedSender<Names>,
    reporter: &'a Reporter,
}

impl Listener<'_> {
    /// Reports what is heard, until an error ends the session.
    async fn listen(mut self, mut heard: Receiver<(Voice, Heard)>, link: &mut Link) -> SourceError {
        let mut batch = Vec::new();
        loop {
            // Never none: the session has a sender.
            heard.recv_many(&mut batch, WAITING).await;
            let mut is_news_of_health = false;
            for (voice, heard) in batch.drain(..) {
                is_news_of_health |= matches!(heard, Heard::Watching | Heard::Failed(_));
                if let Some(error) = self.take(voice, heard) {
                    return error;
                }
            }
            is_news_of_health |= self.change_plan();
            for report in self.cluster.reports() {
                // It ends `Down`, which may last.
                is_news_of_health |= matches!(report, Report::Snapshot { .. });
                self.reporter.send(report);
            }
            if let Some(names) = self.cluster.take_unheard() {
                // The receiver lives as long as the session.
                let _ = self.unheard.send(names);
            }
            if is_news_of_health {
                self.health.report().into_iter().for_each(|report| self.reporter.send(report));
            }
            if self.health.is_up() {
                link.up();
            }
        }
    }

    /// Takes in one thing that was heard; what ends the session.
    fn take(&mut self, voice: Voice, heard: Heard) -> Option<SourceError> {
        match (voice, heard) {
            (Voice::ByName, Heard::Applied(node)) => self.cluster.found_by_name(node),
            (Voice::ByName, Heard::Deleted(name)) => self.cluster.missing_by_name(&name),
            (Voice::ByName, Heard::Listed(_) | Heard::Watching | Heard::Failed(_)) => {}
            (Voice::Topic(topic), Heard::Listed(objects)) => self.cluster.listed(topic, objects),
            (Voice::Topic(topic), Heard::Applied(object)) => self.cluster.applied(topic, object),
            (Voice::Topic(topic), Heard::Deleted(name)) => self.cluster.deleted(topic, &name),
            (_, Heard::Failed(error)) if ends_session(&error) => return Some(error),
            (Voice::Topic(Topic::Affinities), Heard::Failed(error))
                if error.cause() == Cause::Forbidden && self.cluster.without_affinities() => {}
            // What was left meanwhile does not count.
            (Voice::Topic(topic), _) if self.plan.borrow().pace(topic).is_none() => {}
            (Voice::Topic(topic), Heard::Watching) => self.health.watching(topic),
            (Voice::Topic(topic), Heard::Failed(error)) => self.health.failing(topic, error),
        }
        None
    }

    /// Changes what is read, if something else is to be; returns whether that was so.
    fn change_plan(&mut self) -> bool {
        let plan = self.cluster.plan();
        let before = *self.plan.borrow();
        if before == plan {
            return false;
        }
        for topic in Topic::ALL {
            match (before.pace(topic), plan.pace(topic)) {
                (_, None) => self.health.forget(topic),
                (before, now) if before != now => self.health.expect(topic),
                _ => {}
            }
        }
        self.plan.send_replace(plan);
        true
    }
}
