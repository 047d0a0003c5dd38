//! What changes: one stream, on which every range is watched.
//!
//! A watch goes on at the revision after the last one it delivered. etcd sends all
//! events of a revision in one message (they are not asked for in fragments), so
//! none is lost in between.

use std::collections::BTreeSet;

use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use tokio::time::{Instant, timeout_at};

use super::{
    Source,
    connect::ANSWER,
    error::{clean, is_compacted, one_line},
    list::LARGEST,
    ranges::Range,
};
use crate::sources::Report;

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

    /// Watches are numbered from 1 on: 0 would leave the number to the server.
    fn of(&mut self, watch: i64) -> Option<&mut Position> {
        let index = usize::try_from(watch).ok()?.checked_sub(1)?;
        self.0.get_mut(index)
    }
}

/// Why watching ended.
pub enum Ended {
    /// etcd has forgotten what happened since.
    Compacted,
    /// The connection is of no use any more: why.
    Broken(String),
}

impl Source {
    /// Watches from `positions` on, and reports, until that ends.
    pub(super) async fn watch(&mut self, client: &Client, positions: Positions) -> Ended {
        match self.try_watch(client, positions).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn try_watch(
        &mut self,
        client: &Client,
        mut positions: Positions,
    ) -> Result<Ended, Ended> {
        let end = Instant::now() + ANSWER;
        let mut stream = match timeout_at(end, open(client, &positions)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(late()),
        };
        let mut waiting: BTreeSet<i64> = (1..).take(positions.0.len()).collect();
        loop {
            // Afterwards the keep-alive of the connection notices a silent server.
            let message = if waiting.is_empty() {
                stream.message().await
            } else {
                timeout_at(end, stream.message()).await.map_err(|_| late())?
            };
            let response = message.map_err(|error| broken(&error))?;
            let response = response.ok_or_else(|| Ended::Broken("it closed the watch".into()))?;
            let watch = response.watch_id();
            let Some(position) = positions.of(watch) else { continue };
            refused(&response, &position.range)?;
            self.take_in(&response, position);
            self.positions = Some(positions.clone());
            if response.created() && waiting.remove(&watch) && waiting.is_empty() {
                self.is_up();
                if self.down.take().is_some() {
                    self.reporter.send(Report::Up);
                }
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
        for report in self.store.take_reports() {
            self.reporter.send(report);
        }
    }
}

async fn open(client: &Client, positions: &Positions) -> Result<WatchStream, Ended> {
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
            None => stream = Some(client.watch(key, Some(options)).await.map_err(|e| broken(&e))?),
            Some(stream) => stream.watch(key, Some(options)).await.map_err(|e| broken(&e))?,
        }
    }
    stream.ok_or_else(|| Ended::Broken("there is nothing to watch".to_owned()))
}

fn refused(response: &WatchResponse, range: &Range) -> Result<(), Ended> {
    if response.compact_revision() > 0 {
        return Err(Ended::Compacted);
    }
    if response.canceled() {
        let why = match response.cancel_reason() {
            "" => "no reason given",
            why => why,
        };
        return Err(Ended::Broken(format!("watching {}: {}", range.start, clean(why))));
    }
    Ok(())
}

fn broken(error: &etcd_client::Error) -> Ended {
    if is_compacted(error) {
        Ended::Compacted
    } else {
        Ended::Broken(format!("the watch broke: {}", one_line(error)))
    }
}

fn late() -> Ended {
    Ended::Broken(format!("no watch within {} s", ANSWER.as_secs()))
}
