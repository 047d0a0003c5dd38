//! Calico's datastore in etcd (v3 API).
//!
//! All ranges are listed at one revision, then watched from the next one. A
//! connection that ends is made anew, to the next endpoint, and the watches go on
//! where they were: nothing is missed. Only if etcd has forgotten what happened since
//! (compaction) everything is listed again. In a large cluster blocks are not watched, as each pod
//! rewrites one: block affinities make the routes, and blocks are listed about once an hour.
//!
//! | module | does |
//! |---|---|
//! | [`ranges`] | which keys, and what they are |
//! | [`connect`] | one endpoint: TLS, user, password |
//! | [`list`], [`watch`] | all there is; what changes |
//! | [`members`] | the members' own addresses |
//! | [`store`] | objects in, reports out |
//! | [`error`] | etcd's errors as the sources' own |

mod connect;
mod error;
mod list;
mod members;
mod ranges;
mod store;
mod watch;

use std::time::Duration;

use etcd_client::Client;
use tokio::time::Instant;

use self::{ranges::Range, store::Store, watch::Positions};
use super::{
    Me, Report, Reporter,
    error::{Endpoint, SourceError},
    feed::{self, Afterwards, Feed, Link, Pace},
    servers::Servers,
};
use crate::config::EtcdConfig;

type Result<T> = std::result::Result<T, SourceError>;

/// The pause after all endpoints have failed once; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that was up for so long was a good one.
const SETTLED: Duration = Duration::from_secs(10);

/// A connection to one member of the cluster.
struct Member {
    endpoint: Endpoint,
    client: Client,
}

/// Reports until it is dropped.
pub async fn run(config: EtcdConfig, me: Me, reporter: Reporter) {
    let pace = Pace {
        first: FIRST_PAUSE,
        longest: LONGEST_PAUSE,
        endpoints: config.endpoints.len(),
        afterwards: Afterwards::AtOnceAfter(SETTLED),
    };
    let mut servers = Servers::new(reporter.clone(), Report::Servers);
    // Before the first routes: one of them may lead to a server.
    servers.look_up(config.hosts().map(str::to_owned)).await;
    tokio::join!(feed::run(Source::new(config, &me, reporter), pace), servers.follow());
}

struct Source {
    config: EtcdConfig,
    reporter: Reporter,
    /// The cluster's members.
    members: Servers,
    /// When they are looked up again; `None`: with the next session.
    members_due: Option<Instant>,
    ranges: Vec<Range>,
    store: Store,
    /// Where the watches go on; `None`: everything has to be listed (again).
    positions: Option<Positions>,
    /// When blocks that are polled are listed.
    due: Option<Instant>,
    /// When everything is listed, because blocks are to be followed again.
    relist: Option<Instant>,
    /// The endpoint to try next; without end.
    next: usize,
}

impl Feed for Source {
    async fn session(&mut self, link: &mut Link) -> Result<()> {
        let member = self.connect().await?;
        // Before the first routes, likewise.
        self.members_due = Some(members::look_up(&member, &mut self.members).await);
        let positions = match self.positions.clone() {
            Some(positions) => positions,
            None => {
                let positions = self.list(&member).await?;
                self.positions = Some(positions.clone());
                (self.due, self.relist) = (self.next_poll(), None);
                self.store.snapshot().into_iter().for_each(|report| self.reporter.send(report));
                link.up();
                positions
            }
        };
        self.watch(&member, positions, link).await
    }

    fn start_over(&mut self) {
        self.positions = None;
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        self.reporter.send(Report::Down(errors.into_iter().collect()));
    }
}

impl Source {
    fn new(config: EtcdConfig, me: &Me, reporter: Reporter) -> Self {
        Self {
            ranges: Range::all(&config.prefix),
            store: Store::new(&config.prefix, &me.name, config.borrowed),
            members: Servers::new(reporter.clone(), Report::Backends),
            members_due: None,
            reporter,
            positions: None,
            due: None,
            relist: None,
            // Otherwise all nodes would choose the first endpoint.
            next: fastrand::usize(..config.endpoints.len().max(1)),
            config,
        }
    }

    /// Connects to the endpoint whose turn it is.
    async fn connect(&mut self) -> Result<Member> {
        let urls = &self.config.endpoints;
        let turn = self.next.checked_rem(urls.len()).and_then(|index| urls.get(index));
        self.next = self.next.wrapping_add(1);
        // The configuration is checked for it.
        let url = turn.ok_or_else(|| Endpoint::new("etcd").error("no endpoint is configured"))?;
        let endpoint = Endpoint::new(format!("etcd {url}"));
        let client = connect::connect(&self.config, &endpoint, url).await?;
        Ok(Member { endpoint, client })
    }
}
