//! The loop that all sources share: open a session, and decide what to do when it ends.
//!
//! A session connects, lists everything unless it knows where to go on, and follows
//! what changes. It is *up* once everything is reported and no change is missed.
//!
//! | session ended | then |
//! |---|---|
//! | before it was up | try the next endpoint; after the last one report down, and pause |
//! | likewise, as its connection was closed | once, try again: the server may have closed an idle one |
//! | after it was up | begin again without a report: connections break now and then |
//! | because the history is gone | likewise, with a new list |
//! | without an error | begin again |

use std::{convert::Infallible, time::Duration};

use tokio::time::Instant;

use super::{
    backoff::Backoff,
    error::{Cause, SourceError},
};

/// What differs between sources.
pub trait Feed {
    /// Runs one session and calls [`Link::up`] when it is up. `Ok` if there is a reason
    /// to begin again that is not an error.
    async fn session(&mut self, link: &mut Link) -> Result<(), SourceError>;

    /// Forgets where to go on: the next session lists everything.
    fn start_over(&mut self) {}

    /// Reports that no endpoint can be read, with the error of each.
    async fn down(&mut self, errors: Vec<SourceError>);
}

/// How soon and how often a session is tried.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The pause after the first failure; twice as long each time.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How many endpoints are tried without a pause before the source counts as down.
    pub endpoints: usize,
    /// How a session that was up is followed by the next.
    pub afterwards: Afterwards,
}

/// What follows a session that was up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Afterwards {
    /// The next session at once if this one was up for so long, else after a pause.
    AtOnceAfter(Duration),
    /// The same as after a session that was never up.
    Down,
}

/// Whether the session at hand is up.
#[derive(Debug, Default)]
pub struct Link {
    up_since: Option<Instant>,
}

impl Link {
    /// Notes that everything is reported, and that no change is missed from now on.
    pub fn up(&mut self) {
        self.up_since.get_or_insert_with(Instant::now);
    }
}

/// Runs one session after the other.
pub async fn run(mut feed: impl Feed, pace: Pace) -> Infallible {
    let mut course = Course::new(pace);
    let mut backoff = Backoff::new(pace.first, pace.longest);
    loop {
        let mut link = Link::default();
        let ended = feed.session(&mut link).await;
        if let Err(error) = &ended {
            if link.up_since.is_some() {
                tracing::info!("{error}; connecting again");
            }
            if error.cause() == Cause::Gone {
                feed.start_over();
            }
        }
        match course.next(ended, link.up_since.map(|since| since.elapsed())) {
            Next::AnotherEndpoint => {}
            Next::AtOnce => backoff.reset(),
            Next::AfterPause => backoff.pause().await,
            Next::Down(errors) => {
                feed.down(errors).await;
                backoff.pause().await;
            }
        }
    }
}

/// What follows a session.
#[derive(PartialEq, Eq, Debug)]
enum Next {
    /// The next one, which tries another endpoint.
    AnotherEndpoint,
    /// The next one; this one was good.
    AtOnce,
    /// The next one, not too soon.
    AfterPause,
    /// The source is down; then the next one, not too soon.
    Down(Vec<SourceError>),
}

/// The failures in a row.
struct Course {
    pace: Pace,
    failures: Vec<SourceError>,
    /// Whether a closed connection was tried again since a session ended otherwise.
    is_retried: bool,
}

impl Course {
    fn new(pace: Pace) -> Self {
        Self { pace, failures: Vec::new(), is_retried: false }
    }

    /// Decides what follows a session that was up for some time, or never.
    fn next(&mut self, ended: Result<(), SourceError>, up_for: Option<Duration>) -> Next {
        let afterwards = self.pace.afterwards;
        let is_closed = ended.as_ref().is_err_and(|error| error.cause() == Cause::Closed);
        let was_retried = std::mem::replace(&mut self.is_retried, is_closed && up_for.is_none());
        if self.is_retried && !was_retried {
            return Next::AnotherEndpoint;
        }
        match ended {
            Err(error)
                if error.cause() != Cause::Gone
                    && (up_for.is_none() || afterwards == Afterwards::Down) =>
            {
                self.failures.push(error);
                if self.failures.len() < self.pace.endpoints {
                    Next::AnotherEndpoint
                } else {
                    Next::Down(std::mem::take(&mut self.failures))
                }
            }
            Ok(()) | Err(_) => {
                self.failures.clear();
                match (up_for, afterwards) {
                    (Some(time), Afterwards::AtOnceAfter(enough)) if time >= enough => Next::AtOnce,
                    _ => Next::AfterPause,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::error::Endpoint;

    const ENOUGH: Duration = Duration::from_secs(10);
    const SHORT: Option<Duration> = Some(Duration::from_secs(9));
    const LONG: Option<Duration> = Some(ENOUGH);

    fn course(endpoints: usize, afterwards: Afterwards) -> Course {
        let second = Duration::from_secs(1);
        let pace = Pace { first: second, longest: second, endpoints, afterwards };
        Course::new(pace)
    }

    fn error(name: &str) -> SourceError {
        Endpoint::new(name).error("refused")
    }

    #[test]
    fn it_is_down_when_all_endpoints_failed_in_a_row() {
        let mut course = course(3, Afterwards::AtOnceAfter(ENOUGH));
        for _ in 0..2 {
            assert_eq!(course.next(Err(error("a")), None), Next::AnotherEndpoint);
            assert_eq!(course.next(Err(error("b")), None), Next::AnotherEndpoint);
            let down = ["a", "b", "c"].map(error).to_vec();
            assert_eq!(course.next(Err(error("c")), None), Next::Down(down));
        }
        course.next(Err(error("a")), None);
        assert_eq!(course.next(Err(error("b")), LONG), Next::AtOnce);
        for _ in 0..2 {
            assert_eq!(course.next(Err(error("a")), None), Next::AnotherEndpoint);
        }
    }

    #[test]
    fn a_session_that_was_up_may_end_without_a_report() {
        let mut course = course(1, Afterwards::AtOnceAfter(ENOUGH));
        for ended in [Ok(()), Err(error("a")), Err(error("a").caused_by(Cause::Gone))] {
            assert_eq!(course.next(ended.clone(), LONG), Next::AtOnce);
            assert_eq!(course.next(ended, SHORT), Next::AfterPause);
        }
    }

    #[test]
    fn a_closed_connection_is_tried_again_once() {
        let mut course = course(1, Afterwards::AtOnceAfter(ENOUGH));
        let closed = error("a").caused_by(Cause::Closed);
        for ended in [Ok(()), Err(error("a"))] {
            assert_eq!(course.next(Err(closed.clone()), None), Next::AnotherEndpoint);
            for _ in 0..2 {
                let down = Next::Down(vec![closed.clone()]);
                assert_eq!(course.next(Err(closed.clone()), None), down);
            }
            course.next(ended, None);
        }
        assert_eq!(course.next(Err(closed), LONG), Next::AtOnce);
    }

    #[test]
    fn a_history_that_is_gone_is_not_a_failure() {
        let mut course = course(1, Afterwards::AtOnceAfter(ENOUGH));
        let gone = error("a").caused_by(Cause::Gone);
        assert_eq!(course.next(Err(gone), None), Next::AfterPause);
    }

    #[test]
    fn every_end_may_be_worth_a_report() {
        let mut course = course(1, Afterwards::Down);
        for up_for in [None, SHORT, LONG] {
            assert_eq!(course.next(Err(error("a")), up_for), Next::Down(vec![error("a")]));
        }
    }
}
