//! Everything there is, at one revision, page by page.

use std::collections::HashSet;

use etcd_client::{GetOptions, KvClient};
use tokio::time::timeout;

use super::{
    Member, Result, Source,
    connect::{ANSWER, LARGEST, late},
    error,
    ranges::{Kind, Range},
    watch::Positions,
};
use crate::sources::{error::Cause, reads::Pace};

/// Keys of one page: a full block of 64 pods is about 15 kB.
const PAGE: i64 = 500;
/// How often a list is begun anew because etcd was compacted in the midst of it.
const ATTEMPTS: usize = 5;

impl Source {
    /// Lists all ranges, reports them, and returns where the watches begin.
    pub(super) async fn list(&mut self, member: &Member) -> Result<Positions> {
        let mut kv = member.client.kv_client().max_decoding_message_size(LARGEST);
        for _ in 0..ATTEMPTS {
            match self.list_once(member, &mut kv).await {
                // The revision is gone; another one will do.
                Err(error) if error.cause() == Cause::Gone => {}
                positions => return positions,
            }
        }
        Err(member.endpoint.error(format!("compacted {ATTEMPTS} times while it was listed")))
    }

    async fn list_once(&mut self, member: &Member, kv: &mut KvClient) -> Result<Positions> {
        // The first answer says which revision it is of; all others are of the same.
        let mut revision = 0;
        let mut seen = HashSet::new();
        let mut forbidden = Vec::new();
        for range in self.ranges.clone() {
            if range.kind == Kind::Block && self.store.pace().is_none() {
                continue;
            }
            match self.list_range(member, kv, &range, &mut revision, &mut seen).await {
                Err(error)
                    if error.cause() == Cause::Forbidden
                        && range.is_optional()
                        && self.store.without_affinities() =>
                {
                    forbidden.push((range, error));
                }
                outcome => {
                    outcome?;
                    self.store.listed(range.kind);
                }
            }
        }
        self.store.keep_only(None, &seen);
        self.store.set_unreadable(&forbidden);
        let are_followed = self.store.pace() == Some(Pace::Followed);
        let watched = self.ranges.iter().filter(|it| !forbidden.iter().any(|(no, _)| no == *it));
        let watched = watched.filter(|it| are_followed || it.kind != Kind::Block);
        Ok(Positions::after(revision, watched.cloned()))
    }

    /// Lists blocks, which are not followed, and reports what is new.
    pub(super) async fn poll(&mut self, member: &Member) -> Result<()> {
        let mut kv = member.client.kv_client().max_decoding_message_size(LARGEST);
        let blocks = self.ranges.iter().find(|range| range.kind == Kind::Block).cloned();
        let Some(blocks) = blocks else { return Ok(()) };
        let mut seen = HashSet::new();
        self.list_range(member, &mut kv, &blocks, &mut 0, &mut seen).await?;
        self.store.keep_only(Some(&blocks), &seen);
        self.report();
        Ok(())
    }

    async fn list_range(
        &mut self,
        Member { endpoint, .. }: &Member,
        kv: &mut KvClient,
        range: &Range,
        revision: &mut i64,
        seen: &mut HashSet<Vec<u8>>,
    ) -> Result<()> {
        let doing = format!("listing {}", range.start);
        let mut from = range.start.clone().into_bytes();
        loop {
            let options =
                GetOptions::new().with_range(range.end()).with_limit(PAGE).with_revision(*revision);
            let page = timeout(ANSWER, kv.get(from, Some(options))).await;
            let page = page.map_err(|_| late(endpoint).during(&doing))?;
            let page = page.map_err(|error| error::of(endpoint, &error).during(&doing))?;
            if *revision == 0 {
                let nowhere = || endpoint.error("the answer has no revision").during(&doing);
                *revision = page.header().ok_or_else(nowhere)?.revision();
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
