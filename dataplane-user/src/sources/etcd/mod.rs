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
//! | [`error`] | one clear line for what went wrong |

mod connect;
mod error;
mod list;
mod ranges;
mod store;
mod watch;

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep};

use self::{
    ranges::Range,
    store::Store,
    watch::{Ended, Positions},
};
use super::{Me, Report, Reporter, backoff::Backoff};
use crate::config::EtcdConfig;

/// The pause after the first failed round of all endpoints; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that held so long was a good one.
const SETTLED: Duration = Duration::from_secs(10);

/// Reports until it is dropped.
pub async fn run(config: EtcdConfig, me: Me, reporter: Reporter) {
    let Err(why) = Source::new(config, &me, reporter.clone()).run().await;
    // The configuration is checked for it, but nobody should have to trust that.
    reporter.send(Report::Down(why));
    std::future::pending::<()>().await;
}

struct Source {
    config: EtcdConfig,
    reporter: Reporter,
    ranges: Vec<Range>,
    store: Store,
    /// Where the watches go on; `None`: everything has to be listed (again).
    positions: Option<Positions>,
    /// What was told last of its being down.
    down: Option<String>,
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
            down: None,
            up_since: None,
        }
    }

    /// One connection after the other; `Err` if there is nowhere to connect to.
    async fn run(mut self) -> Result<Infallible, String> {
        let endpoints = self.config.endpoints.clone();
        // Not everybody's first choice should be the same.
        let first = fastrand::usize(..endpoints.len().max(1));
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut failures = Vec::new();
        for endpoint in endpoints.iter().cycle().skip(first) {
            let Err(why) = self.session(endpoint).await;
            if let Some(since) = self.up_since.take() {
                tracing::info!("etcd {endpoint}: {why}; connecting again");
                failures.clear();
                if since.elapsed() >= SETTLED {
                    backoff.reset();
                } else {
                    backoff.pause().await;
                }
                continue;
            }
            failures.push(format!("{endpoint}: {why}"));
            if failures.len() == endpoints.len() {
                self.tell_down(format!("etcd {}", failures.join("; ")));
                failures.clear();
                backoff.pause().await;
            }
        }
        Err("etcd: no endpoint is configured".to_owned())
    }

    /// One connection, from its beginning to its end; why it ended.
    async fn session(&mut self, endpoint: &str) -> Result<Infallible, String> {
        let client = connect::connect(&self.config, endpoint).await?;
        loop {
            let positions = match self.positions.clone() {
                Some(positions) => positions,
                None => self.list(&client).await?,
            };
            match self.watch(&client, positions).await {
                Ended::Compacted => {
                    tracing::info!("etcd {endpoint}: compacted beyond what we saw; listing anew");
                    self.positions = None;
                    // Were it always so, others should not suffer from it.
                    sleep(FIRST_PAUSE).await;
                }
                Ended::Broken(why) => return Err(why),
            }
        }
    }

    fn tell_down(&mut self, why: String) {
        let is_told = match &self.down {
            Some(told) => *told == why || error::is_vague(&why),
            None => false,
        };
        if !is_told {
            self.reporter.send(Report::Down(why.clone()));
            self.down = Some(why);
        }
    }

    /// The connection is of use: everything was listed, or is watched again.
    fn is_up(&mut self) {
        self.up_since.get_or_insert_with(Instant::now);
    }
}
