//! Whether the source is up, as the daemon was told.

use std::collections::{BTreeMap, BTreeSet};

use super::{access::Resource, failure::Failure};
use crate::sources::{Report, Reporter};

/// Says `Down` once for each reason, and `Up` once it is over.
#[derive(Debug)]
pub struct Told {
    reporter: Reporter,
    /// Those that are not being watched, though they should be.
    waiting: BTreeSet<Resource>,
    failing: BTreeMap<Resource, Failure>,
    down: Option<String>,
}

impl Told {
    /// Nothing yet.
    pub fn new(reporter: Reporter) -> Self {
        let (waiting, failing) = (BTreeSet::new(), BTreeMap::new());
        Self { reporter, waiting, failing, down: None }
    }

    /// A session begins, in which these are to be watched.
    pub fn begin(&mut self, resources: &[Resource]) {
        self.failing.clear();
        self.waiting = resources.iter().copied().collect();
    }

    /// A resource is being watched.
    pub fn watching(&mut self, resource: Resource) {
        self.failing.remove(&resource);
        self.waiting.remove(&resource);
    }

    /// A resource cannot be listed or watched.
    pub fn failing(&mut self, resource: Resource, failure: Failure) {
        self.failing.insert(resource, failure);
        self.waiting.insert(resource);
    }

    /// Whether nothing is amiss.
    pub fn are_all_watched(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A snapshot was sent, which ends `Down`.
    pub fn spoke(&mut self) {
        self.down = None;
    }

    /// Sends something else.
    pub fn send(&self, report: Report) {
        self.reporter.send(report);
    }

    /// Says whether the source is up, if that is not what was said last.
    pub fn state(&mut self) {
        let reasons: BTreeSet<_> = self.failing.values().map(ToString::to_string).collect();
        if !reasons.is_empty() {
            self.say_down(reasons.into_iter().collect::<Vec<_>>().join("; "));
        } else if self.waiting.is_empty() && self.down.take().is_some() {
            self.reporter.send(Report::Up);
        }
    }

    /// Nothing can be read at all.
    pub fn down(&mut self, failure: &Failure) {
        self.say_down(failure.to_string());
    }

    fn say_down(&mut self, why: String) {
        if self.down.as_ref() != Some(&why) {
            self.reporter.send(Report::Down(why.clone()));
            self.down = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::{
        super::access::{CALICO_V1, NODES},
        *,
    };
    use crate::sources::SourceKind;

    fn told() -> (Told, impl FnMut() -> Vec<String>) {
        let (sender, mut reports) = unbounded_channel();
        let mut told = Told::new(Reporter::new(SourceKind::Kubernetes, sender));
        told.begin(&[NODES, CALICO_V1.blocks]);
        (told, move || said(&mut reports))
    }

    fn said(reports: &mut UnboundedReceiver<(SourceKind, Report)>) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok((_, report)) = reports.try_recv() {
            said.push(match report {
                Report::Down(why) => why,
                Report::Up => "up".to_owned(),
                other => panic!("{other:?}"),
            });
        }
        said
    }

    #[test]
    fn one_reason_is_said_once_however_many_resources_it_hits() {
        let (mut told, mut said) = told();
        told.failing(NODES, Failure::other("K", "refused"));
        told.state();
        told.failing(CALICO_V1.blocks, Failure::other("K", "refused"));
        told.state();
        assert_eq!(said(), ["K: refused"]);
        told.failing(NODES, Failure::other("K", "403"));
        told.state();
        assert_eq!(said(), ["K: 403; K: refused"]);
    }

    #[test]
    fn it_is_up_when_everything_is_watched_again() {
        let (mut told, mut said) = told();
        told.watching(NODES);
        told.failing(CALICO_V1.blocks, Failure::other("K", "refused"));
        told.state();
        told.failing(NODES, Failure::other("K", "refused"));
        told.watching(CALICO_V1.blocks);
        told.state();
        assert_eq!(said(), ["K: refused"]);
        told.watching(NODES);
        told.state();
        told.state();
        assert_eq!(said(), ["up"]);
    }

    #[test]
    fn what_a_snapshot_ends_is_said_again_if_it_lasts() {
        let (mut told, mut said) = told();
        told.failing(NODES, Failure::other("K", "403"));
        told.state();
        told.spoke();
        told.state();
        assert_eq!(said(), ["K: 403", "K: 403"]);
    }
}
