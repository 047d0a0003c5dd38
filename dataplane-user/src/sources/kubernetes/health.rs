//! Whether all that is to be read is; whether the source is up follows from it.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Topic;
use crate::sources::{Report, error::SourceError};

/// What is not read, though it should be.
#[derive(Debug, Default)]
pub struct Health {
    waiting: BTreeSet<Topic>,
    failing: BTreeMap<Topic, SourceError>,
}

impl Health {
    /// Begins a session in which these are to be read.
    pub fn new(topics: impl Iterator<Item = Topic>) -> Self {
        Self { waiting: topics.collect(), failing: BTreeMap::new() }
    }

    /// Notes that a topic is read from now on.
    pub fn expect(&mut self, topic: Topic) {
        self.waiting.insert(topic);
    }

    /// Notes that a topic is not read any more.
    pub fn forget(&mut self, topic: Topic) {
        self.failing.remove(&topic);
        self.waiting.remove(&topic);
    }

    /// Notes that a topic is being watched, or was read.
    pub fn watching(&mut self, topic: Topic) {
        self.forget(topic);
    }

    /// Notes that a topic cannot be listed or watched.
    pub fn failing(&mut self, topic: Topic, error: SourceError) {
        self.failing.insert(topic, error);
        self.waiting.insert(topic);
    }

    /// Returns whether everything is read.
    pub fn is_up(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Reports whether the source is up; `None` while that is not known, because some
    /// topics were not asked for yet.
    pub fn report(&self) -> Option<Report> {
        if !self.failing.is_empty() {
            return Some(Report::Down(self.failing.values().cloned().collect()));
        }
        self.is_up().then_some(Report::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::error::Endpoint;

    fn health() -> Health {
        Health::new([Topic::Nodes, Topic::Blocks].into_iter())
    }

    fn error(why: &str) -> SourceError {
        Endpoint::new("K").error(why)
    }

    fn reported(health: &Health) -> Option<String> {
        health.report().map(|report| match report {
            Report::Down(why) => why.to_string(),
            Report::Up => "up".to_owned(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn one_reason_is_named_once_however_many_resources_it_hits() {
        let mut health = health();
        health.failing(Topic::Nodes, error("refused"));
        health.failing(Topic::Blocks, error("refused"));
        assert_eq!(reported(&health).as_deref(), Some("K: refused"));
        health.failing(Topic::Nodes, error("403"));
        assert_eq!(reported(&health).as_deref(), Some("K: 403; K: refused"));
    }

    #[test]
    fn it_is_up_when_everything_is_watched_again() {
        let mut health = health();
        assert_eq!(reported(&health), None);
        health.watching(Topic::Nodes);
        assert_eq!(reported(&health), None);
        health.failing(Topic::Nodes, error("refused"));
        health.watching(Topic::Blocks);
        assert_eq!(reported(&health).as_deref(), Some("K: refused"));
        health.watching(Topic::Nodes);
        assert_eq!(reported(&health).as_deref(), Some("up"));
    }

    #[test]
    fn what_is_not_read_any_more_does_not_count() {
        let mut health = health();
        health.watching(Topic::Nodes);
        health.failing(Topic::Blocks, error("refused"));
        health.forget(Topic::Blocks);
        assert_eq!(reported(&health).as_deref(), Some("up"));
        health.expect(Topic::Affinities);
        assert_eq!(reported(&health), None);
    }
}
