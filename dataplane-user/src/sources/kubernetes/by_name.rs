//! Nodes that are asked for by name, where all nodes are only polled.
//!
//! A node gets its first block when it starts, and its block affinity is followed: so a new node is
//! asked for at once, not when all are read again. An API server that lags behind may not have it,
//! or not with the annotation that Calico's agent writes before: then it is asked for again, ever
//! later. Every node of the cluster asks, so each waits for a random time that grows with the cluster.

use std::{collections::BTreeMap, convert::Infallible, future, time::Duration};

use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver},
    time::{Instant, sleep_until},
};

use super::{
    Voice,
    access::NODES,
    connect::Api,
    follow::Heard,
    object::Object,
    request::{self, Ask, Freshness, Part},
};
use crate::sources::error::SourceError;

/// Before a node is asked for, for each node there is: at random up to twice as much.
const PER_NODE: Duration = Duration::from_micros(200);
/// Before a node that was not there is asked for again: each time four times as long.
const AGAIN: Duration = Duration::from_secs(2);
/// So often; after that, all nodes are soon read again.
const TIMES: u32 = 6;
/// Before a question that the API did not answer is asked again.
const UNANSWERED: Duration = Duration::from_secs(10);

/// Names to ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// These.
    pub names: Vec<String>,
    /// How many nodes there are.
    pub nodes: usize,
}

/// Asks for nodes, and sends what they are.
pub async fn run(
    api: &Api,
    mut names: UnboundedReceiver<Names>,
    to: Sender<(Voice, Heard)>,
) -> Infallible {
    let (mut questions, mut nodes) = (Questions::default(), 0);
    loop {
        let next = questions.next();
        tokio::select! {
            more = names.recv() => match more {
                Some(more) => {
                    nodes = more.nodes;
                    for name in more.names {
                        questions.ask(name, Instant::now() + at_random(nodes));
                    }
                }
                // The session has ended.
                None => future::pending().await,
            },
            Some(name) = due(next) => {
                let answer = ask(api, &name).await;
                let now = Instant::now();
                match answer {
                    Ok((found, is_settled)) => {
                        questions.answered(&name, is_settled, now);
                        let heard = found.map_or(Heard::Deleted(name), Heard::Applied);
                        // The receiver goes when the session ends, and this future with it.
                        let _ = to.send((Voice::ByName, heard)).await;
                    }
                    Err(_) => questions.unanswered(&name, now),
                }
                questions.not_before(now + at_random(nodes));
            }
        }
    }
}

/// The name whose turn it is, when it is; `None`: there is none.
async fn due(next: Option<(String, Instant)>) -> Option<String> {
    let (name, at) = next?;
    sleep_until(at).await;
    Some(name)
}

/// The node of this name (`None`: there is none), and whether Calico's agent has annotated it, so
/// that the address is the right one.
async fn ask(api: &Api, name: &str) -> Result<(Option<Object>, bool), SourceError> {
    let name = Some(name.to_owned());
    let freshness = Freshness::Cached;
    let metadata = Ask { resource: NODES, part: Part::Metadata, freshness, name };
    let Some(found) = request::list(api, &metadata).await?.0.pop() else {
        return Ok((None, false));
    };
    if found.is_complete(false) {
        return Ok((Some(found), true));
    }
    let whole = Ask { part: Part::Whole, ..metadata };
    Ok((request::list(api, &whole).await?.0.pop(), false))
}

fn at_random(nodes: usize) -> Duration {
    let mean = PER_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX));
    mean.mul_f64(2.0 * fastrand::f64())
}

/// What is to be asked.
#[derive(Default, Debug)]
struct Questions {
    /// When, and how often it was asked already.
    open: BTreeMap<String, (Instant, u32)>,
    not_before: Option<Instant>,
}

impl Questions {
    /// Asks for a node at `due`, as if for the first time.
    fn ask(&mut self, name: String, due: Instant) {
        self.open.insert(name, (due, 0));
    }

    /// The next one, and when.
    fn next(&self) -> Option<(String, Instant)> {
        let (name, (due, _)) = self.open.iter().min_by_key(|(_, (due, _))| *due)?;
        Some((name.clone(), self.not_before.map_or(*due, |earliest| earliest.max(*due))))
    }

    /// Asks nothing before.
    fn not_before(&mut self, earliest: Instant) {
        self.not_before = Some(earliest);
    }

    /// Notes an answer. `is_settled`: it will be the same for a long time.
    fn answered(&mut self, name: &str, is_settled: bool, now: Instant) {
        let Some((due, times)) = self.open.get_mut(name) else { return };
        if is_settled || *times >= TIMES {
            self.open.remove(name);
            return;
        }
        *due = now + AGAIN * 4_u32.pow(*times);
        *times += 1;
    }

    /// Notes that the API did not answer.
    fn unanswered(&mut self, name: &str, now: Instant) {
        if let Some((due, _)) = self.open.get_mut(name) {
            *due = now + UNANSWERED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_not_there_is_asked_for_ever_later() {
        let mut questions = Questions::default();
        let start = Instant::now();
        questions.ask("b".to_owned(), start);
        let mut pauses = Vec::new();
        let mut now = start;
        while let Some((name, due)) = questions.next() {
            assert_eq!(name, "b");
            pauses.push((due - now).as_secs());
            now = due;
            questions.answered("b", false, now);
        }
        assert_eq!(pauses, [0, 2, 8, 32, 128, 512, 2048]);
        // Named again it is new.
        questions.ask("b".to_owned(), now);
        questions.answered("b", true, now);
        assert_eq!(questions.next(), None);
    }

    #[test]
    fn an_api_that_does_not_answer_costs_no_question() {
        let mut questions = Questions::default();
        let start = Instant::now();
        questions.ask("b".to_owned(), start);
        for _ in 0..100 {
            questions.unanswered("b", start);
        }
        assert_eq!(questions.next(), Some(("b".to_owned(), start + UNANSWERED)));
    }

    #[test]
    fn the_fleet_asks_some_thousand_times_a_second() {
        let start = Instant::now();
        let mut questions = Questions::default();
        for name in ["a", "b", "c"] {
            questions.ask(name.to_owned(), start);
        }
        questions.not_before(start + Duration::from_secs(1));
        assert_eq!(questions.next(), Some(("a".to_owned(), start + Duration::from_secs(1))));
        for nodes in [0, 1_000, 5_000] {
            let longest = PER_NODE * 2 * u32::try_from(nodes).unwrap();
            assert!((0..100).all(|_| at_random(nodes) <= longest), "{nodes}");
        }
        assert!(at_random(5_000) <= Duration::from_secs(2));
    }
}
