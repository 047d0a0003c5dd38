//! What changes: one stream, on which every range is watched.
//!
//! A watch goes on at the revision after the last one it delivered. etcd sends all
//! events of a revision in one message (they are not asked for in fragments), so
//! none is lost in between.

use std::{collections::BTreeSet, future, time::Duration};

use etcd_client::{Client, Error, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Member, Result, Source,
    connect::{ANSWER, LARGEST, late},
    error, members,
    ranges::{Kind, Range},
};
use crate::sources::{
    Report,
    error::{Cause, Endpoint},
    feed::Link,
    reads::{self, Pace},
};

/// Within this time all daemons of a cluster that became small list everything.
const CHANGE: Duration = Duration::from_secs(60);
/// After a poll that failed, the next one.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Where each range's watch begins or goes on.
#[derive(Clone, Debug)]
pub struct Positions(Vec<Position>);

#[derive(Clone, Debug)]
struct Position {
    range: Range,
    /// The first revision that has not been seen.
    next: i64,
}

impl Positions {
    /// All begin after the revision that was listed.
    pub fn after(revision: i64, ranges: impl Iterator<Item = Range>) -> Self {
        Self(ranges.map(|range| Position { range, next: revision.saturating_add(1) }).collect())
    }

    /// The same, but for blocks.
    fn without_blocks(mut self) -> Self {
        self.0.retain(|position| position.range.kind != Kind::Block);
        self
    }

    /// Watches are numbered from 1 on: 0 would leave the number to the server.
    fn of(&mut self, watch: i64) -> Option<&mut Position> {
        let index = usize::try_from(watch).ok()?.checked_sub(1)?;
        self.0.get_mut(index)
    }
}

impl Source {
    /// Watches from `positions` on, and reports, until that ends; `Ok` if something else is to be
    /// watched.
    pub(super) async fn watch(
        &mut self,
        member: &Member,
        mut positions: Positions,
        link: &mut Link,
    ) -> Result<()> {
        let Member { endpoint, client } = member;
        let end = Instant::now() + ANSWER;
        let broken = |error| error::of(endpoint, &error).during("watching");
        let silent = |_| late(endpoint).during("watching");
        let opened = timeout_at(end, open(client, &positions)).await;
        let opened = opened.map_err(silent)?.map_err(broken)?;
        let mut stream = opened.ok_or_else(|| endpoint.error("there is no range to watch"))?;
        let mut waiting: BTreeSet<i64> = (1..).take(positions.0.len()).collect();
        loop {
            // Afterwards the keep-alive of the connection notices a silent server.
            let message = if waiting.is_empty() {
                tokio::select! {
                    message = stream.message() => message,
                    () = until(self.members_due) => {
                        self.members_due = Some(members::look_up(member, &mut self.members).await);
                        continue;
                    }
                    () = until([self.due, self.relist].into_iter().flatten().min()) => {
                        if self.relist.take().is_some() {
                            self.positions = None;
                            return Ok(());
                        }
                        self.due = Some(Instant::now() + AFTER_FAILURE);
                        self.poll(member).await?;
                        self.due = self.next_poll();
                        continue;
                    }
                }
            } else {
                timeout_at(end, stream.message()).await.map_err(silent)?
            };
            let response = message.map_err(broken)?;
            let response = response.ok_or_else(|| endpoint.error("etcd closed the watch"))?;
            let watch = response.watch_id();
            let Some(position) = positions.of(watch) else { continue };
            refused(&response, &position.range, endpoint)?;
            self.take_in(&response, position);
            self.positions = Some(positions.clone());
            if self.store.leave_blocks() {
                self.report();
                self.positions = Some(positions.without_blocks());
                self.due = self.next_poll();
                return Ok(());
            }
            if self.store.wants_list() {
                let soon = || Instant::now() + CHANGE.mul_f64(fastrand::f64());
                self.relist.get_or_insert_with(soon);
            } else {
                self.relist = None;
            }
            if response.created() && waiting.remove(&watch) && waiting.is_empty() {
                self.reporter.send(Report::Up);
                link.up();
            }
        }
    }

    /// All events of a message are one step.
    fn take_in(&mut self, response: &WatchResponse, position: &mut Position) {
        for pair in response.events().iter().filter_map(etcd_client::Event::kv) {
            // A key that was deleted is of version 0.
            if pair.version() == 0 {
                self.store.delete(pair.key());
            } else {
                self.store.put(pair.key(), pair.value());
            }
            position.next = position.next.max(pair.mod_revision().saturating_add(1));
        }
        if let Some(header) = response.header()
            && response.events().is_empty()
            && !response.created()
        {
            // So far nothing has happened in this range.
            position.next = position.next.max(header.revision().saturating_add(1));
        }
        self.report();
    }

    /// Reports what is new.
    pub(super) fn report(&mut self) {
        for report in self.store.take_reports() {
            self.reporter.send(report);
        }
    }

    /// When blocks are listed next, if they are polled.
    pub(super) fn next_poll(&mut self) -> Option<Instant> {
        let is_polled = self.store.pace() == Some(Pace::Polled);
        is_polled.then(|| Instant::now() + reads::until_next_poll())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

/// Asks for all watches on one stream; `None` if there is no range to watch.
async fn open(
    client: &Client,
    positions: &Positions,
) -> std::result::Result<Option<WatchStream>, Error> {
    let mut client = client.watch_client().max_decoding_message_size(LARGEST);
    let mut stream: Option<WatchStream> = None;
    for (number, position) in (1..).zip(&positions.0) {
        let key = position.range.start.as_str();
        let options = WatchOptions::new()
            .with_range(position.range.end())
            .with_start_revision(position.next)
            // So that a range in which nothing happens is not compacted away.
            .with_progress_notify()
            .with_watch_id(number);
        match &mut stream {
            None => stream = Some(client.watch(key, Some(options)).await?),
            Some(stream) => stream.watch(key, Some(options)).await?,
        }
    }
    Ok(stream)
}

fn refused(response: &WatchResponse, range: &Range, endpoint: &Endpoint) -> Result<()> {
    let doing = format!("watching {}", range.start);
    if response.compact_revision() > 0 {
        let error = endpoint.error("etcd has compacted the changes since the last one we saw");
        return Err(error.during(doing).caused_by(Cause::Gone));
    }
    if response.canceled() {
        let why = match response.cancel_reason() {
            "" => "etcd canceled the watch without a reason",
            why => why,
        };
        return Err(endpoint.error(why).during(doing));
    }
    Ok(())
}
