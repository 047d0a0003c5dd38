//! Everything there is, at one revision, page by page.

use std::{collections::HashSet, future::Future, time::Duration};

use etcd_client::{Client, Error, GetOptions, GetResponse, KvClient};
use tokio::time::timeout;

use super::{
    Source,
    connect::ANSWER,
    error::{is_compacted, is_forbidden, one_line},
    ranges::Range,
    watch::Positions,
};

/// Keys of one page: a full block of 64 pods is about 15 kB.
const PAGE: i64 = 500;
/// The largest answer that is taken; gRPC's 4 MB are less than a page can be.
pub const LARGEST: usize = 256 << 20;
/// How often a list is begun anew because etcd was compacted in the midst of it.
const ATTEMPTS: usize = 5;

/// Why a list was not finished.
enum Failed {
    /// The revision is gone; another one will do.
    Compacted,
    /// This will not get better by itself.
    Forbidden(String),
    Other(String),
}

impl Source {
    /// Lists all ranges, reports them, and returns where the watches begin.
    pub(super) async fn list(&mut self, client: &Client) -> Result<Positions, String> {
        let mut kv = client.kv_client().max_decoding_message_size(LARGEST);
        for _ in 0..ATTEMPTS {
            match self.list_once(&mut kv).await {
                Ok(positions) => {
                    self.positions = Some(positions.clone());
                    self.is_up();
                    self.down = None;
                    self.reporter.send(self.store.snapshot());
                    return Ok(positions);
                }
                Err(Failed::Compacted) => {}
                Err(Failed::Forbidden(why) | Failed::Other(why)) => return Err(why),
            }
        }
        Err(format!("compacted {ATTEMPTS} times while it was listed"))
    }

    async fn list_once(&mut self, kv: &mut KvClient) -> Result<Positions, Failed> {
        // The first answer says which revision it is of; all others are of the same.
        let mut revision = 0;
        let mut seen = HashSet::new();
        let mut forbidden = Vec::new();
        for range in self.ranges.clone() {
            match self.list_range(kv, &range, &mut revision, &mut seen).await {
                Err(Failed::Forbidden(why)) if range.is_optional() => forbidden.push((range, why)),
                outcome => outcome?,
            }
        }
        self.store.keep_only(&seen);
        self.store.set_unreadable(&forbidden);
        let watched = self.ranges.iter().filter(|it| !forbidden.iter().any(|(no, _)| no == *it));
        Ok(Positions::after(revision, watched.cloned()))
    }

    async fn list_range(
        &mut self,
        kv: &mut KvClient,
        range: &Range,
        revision: &mut i64,
        seen: &mut HashSet<Vec<u8>>,
    ) -> Result<(), Failed> {
        let mut from = range.start.clone().into_bytes();
        loop {
            let options =
                GetOptions::new().with_range(range.end()).with_limit(PAGE).with_revision(*revision);
            let page = get(kv.get(from, Some(options)), ANSWER, range).await?;
            if *revision == 0 {
                let header =
                    page.header().ok_or_else(|| other(range, "an answer of no revision"))?;
                *revision = header.revision();
            }
            for pair in page.kvs() {
                self.store.put(pair.key(), pair.value());
                seen.insert(pair.key().to_owned());
            }
            match page.kvs().last() {
                Some(last) if page.more() => {
                    from = last.key().to_owned();
                    // The very next key there can be.
                    from.push(0);
                }
                _ => return Ok(()),
            }
        }
    }
}

async fn get(
    answer: impl Future<Output = Result<GetResponse, Error>>,
    limit: Duration,
    range: &Range,
) -> Result<GetResponse, Failed> {
    let late = |_| other(range, &format!("no answer within {} s", limit.as_secs()));
    timeout(limit, answer).await.map_err(late)?.map_err(|error| {
        if is_compacted(&error) {
            Failed::Compacted
        } else if is_forbidden(&error) {
            Failed::Forbidden(format!("listing {}: {}", range.start, one_line(&error)))
        } else {
            other(range, &one_line(&error))
        }
    })
}

fn other(range: &Range, why: &str) -> Failed {
    Failed::Other(format!("listing {}: {why}", range.start))
}
