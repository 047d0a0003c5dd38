//! Calico's datastore in etcd (v3 API).
//!
//! All ranges are listed at one revision, then watched from the next one. A
//! connection that ends is made anew, to the next endpoint, and the watches go on
//! where they were: nothing is missed. Only if etcd has forgotten what happened since
//! (compaction) everything is listed again.
//!
//! | module | does |
//! |---|---|
//! | [`ranges`] | which keys, and what they are |
//! | [`connect`] | one endpoint: TLS, user, password |
//! | [`list`], [`watch`] | all there is; what changes |
//! | [`store`] | objects in, reports out |
//! | [`error`] | etcd's errors as the sources' own |

mod connect;
mod error;
mod list;
mod ranges;
mod store;
mod watch;

use std::{convert::Infallible, time::Duration};

use etcd_client::Client;
use tokio::time::{Instant, sleep};

use self::{ranges::Range, store::Store, watch::Positions};
use super::{
    Me, Report, Reporter,
    backoff::Backoff,
    error::{Cause, Endpoint, Outage, SourceError},
};
use crate::config::EtcdConfig;

type Result<T> = std::result::Result<T, SourceError>;

/// The pause after the first failed round of all endpoints; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that held so long was a good one.
const SETTLED: Duration = Duration::from_secs(10);

/// A connection to one member of the cluster.
struct Member {
    endpoint: Endpoint,
    client: Client,
}

/// Reports until it is dropped.
pub async fn run(config: EtcdConfig, me: Me, reporter: Reporter) {
    let Err(error) = Source::new(config, &me, reporter.clone()).run().await;
    // The configuration is checked for it, but nobody should have to trust that.
    reporter.send(Report::Down(error.into()));
    std::future::pending::<()>().await;
}

struct Source {
    config: EtcdConfig,
    reporter: Reporter,
    ranges: Vec<Range>,
    store: Store,
    /// Where the watches go on; `None`: everything has to be listed (again).
    positions: Option<Positions>,
    /// Since when the connection at hand is of use.
    up_since: Option<Instant>,
}

impl Source {
    fn new(config: EtcdConfig, me: &Me, reporter: Reporter) -> Self {
        let ranges = Range::all(&config.prefix);
        Self {
            store: Store::new(&config.prefix, &me.name),
            config,
            reporter,
            ranges,
            positions: None,
            up_since: None,
        }
    }

    /// One connection after the other; `Err` if there is nowhere to connect to.
    async fn run(mut self) -> Result<Infallible> {
        let endpoints = self.config.endpoints.clone();
        // Not everybody's first choice should be the same.
        let first = fastrand::usize(..endpoints.len().max(1));
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failures = Vec::new();
        for endpoint in endpoints.iter().cycle().skip(first) {
            let Err(error) = self.session(endpoint).await;
            if let Some(since) = self.up_since.take() {
                tracing::info!("{error}; connecting again");
                failures.clear();
                if since.elapsed() >= SETTLED {
                    backoff.reset();
                } else {
                    backoff.pause().await;
                }
                continue;
            }
            failures.push(error);
            if failures.len() == endpoints.len() {
                let outage: Outage = std::mem::take(&mut failures).into_iter().collect();
                self.reporter.send(Report::Down(outage));
                backoff.pause().await;
            }
        }
        Err(Endpoint::new("etcd").error("no endpoint is configured"))
    }

    /// One connection, from its beginning to its end; why it ended.
    async fn session(&mut self, url: &str) -> Result<Infallible> {
        let endpoint = Endpoint::new(format!("etcd {url}"));
        let client = connect::connect(&self.config, &endpoint, url).await?;
        let member = Member { endpoint, client };
        loop {
            let positions = match self.positions.clone() {
                Some(positions) => positions,
                None => self.list_all(&member).await?,
            };
            let Err(error) = self.watch(&member, positions).await;
            if error.cause() != Cause::Gone {
                return Err(error);
            }
            tracing::info!("{error}; listing everything again");
            self.positions = None;
            // Were it always so, others should not suffer from it.
            sleep(FIRST_PAUSE).await;
        }
    }

    async fn list_all(&mut self, member: &Member) -> Result<Positions> {
        let positions = self.list(member).await?;
        self.positions = Some(positions.clone());
        self.up_since.get_or_insert_with(Instant::now);
        self.reporter.send(self.store.snapshot());
        Ok(positions)
    }

    /// Everything is watched, and nothing was missed.
    fn all_watched(&mut self) {
        self.up_since.get_or_insert_with(Instant::now);
        self.reporter.send(Report::Up);
    }
}
