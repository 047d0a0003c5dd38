//! Whether all resources are watched; whether the source is up follows from it.

use std::collections::{BTreeMap, BTreeSet};

use super::access::Resource;
use crate::sources::{Report, error::SourceError};

/// The resources that are not watched, though they should be.
#[derive(Debug, Default)]
pub struct Health {
    waiting: BTreeSet<Resource>,
    failing: BTreeMap<Resource, SourceError>,
}

impl Health {
    /// Begins a session in which these are to be watched.
    pub fn new(resources: &[Resource]) -> Self {
        Self { waiting: resources.iter().copied().collect(), failing: BTreeMap::new() }
    }

    /// Notes that a resource is being watched.
    pub fn watching(&mut self, resource: Resource) {
        self.failing.remove(&resource);
        self.waiting.remove(&resource);
    }

    /// Notes that a resource cannot be listed or watched.
    pub fn failing(&mut self, resource: Resource, error: SourceError) {
        self.failing.insert(resource, error);
        self.waiting.insert(resource);
    }

    /// Returns whether all resources are watched.
    pub fn is_up(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Reports whether the source is up; `None` while that is not known, because some
    /// resources were not asked for yet.
    pub fn report(&self) -> Option<Report> {
        if !self.failing.is_empty() {
            return Some(Report::Down(self.failing.values().cloned().collect()));
        }
        self.is_up().then_some(Report::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::access::{CALICO_V1, NODES},
        *,
    };
    use crate::sources::error::Endpoint;

    fn health() -> Health {
        Health::new(&[NODES, CALICO_V1.blocks])
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
        health.failing(NODES, error("refused"));
        health.failing(CALICO_V1.blocks, error("refused"));
        assert_eq!(reported(&health).as_deref(), Some("K: refused"));
        health.failing(NODES, error("403"));
        assert_eq!(reported(&health).as_deref(), Some("K: 403; K: refused"));
    }

    #[test]
    fn it_is_up_when_everything_is_watched_again() {
        let mut health = health();
        assert_eq!(reported(&health), None);
        health.watching(NODES);
        assert_eq!(reported(&health), None);
        health.failing(NODES, error("refused"));
        health.watching(CALICO_V1.blocks);
        assert_eq!(reported(&health).as_deref(), Some("K: refused"));
        health.watching(NODES);
        assert_eq!(reported(&health).as_deref(), Some("up"));
    }
}
