//! Following one BIRD, across its restarts.

use std::{collections::BTreeMap, time::Duration};

use ipnet::Ipv4Net;
use tokio::time::{Instant, sleep};

use super::{
    Result,
    client::Client,
    health::{Sessions, Status},
    routes::{Found, Reader},
    stamped::Stamped,
};
use crate::{
    config::BirdConfig,
    sources::{
        Change, Claim, Me, Origin, Report, Reporter,
        error::{Endpoint, SourceError},
        feed::{Feed, Link},
        names::NodeNames,
    },
};

/// At least this often the table is fetched, whatever the counters say.
const WHOLE: Duration = Duration::from_secs(60);
/// So long no counter may have changed before a BIRD that has just started is
/// taken to have everything: its neighbours send their tables without a pause.
const QUIET: Duration = Duration::from_secs(2);
/// We pause so many times as long as BIRD needs to answer.
const PATIENCE: u32 = 4;

type Claims = BTreeMap<(Ipv4Net, Origin), Claim>;

/// See the [module](self).
pub struct Follower {
    config: BirdConfig,
    within: Vec<Ipv4Net>,
    me: Me,
    reporter: Reporter,
    endpoint: Endpoint,
    /// What was reported and not taken back: what is gone is found by comparing.
    claims: Claims,
    /// The names that were last reported.
    names: NodeNames,
    /// The BIRD whose whole table was reported last, by its start.
    boot: Option<Stamped>,
    /// One that is not settled yet, and since when we see it.
    young: Option<(Stamped, Instant)>,
}

/// What one connection has brought so far.
struct Session {
    client: Client,
    /// The counters when they were last others, and when that was.
    print: Option<(Stamped, Instant)>,
    /// The table, and when it was fetched.
    table: Option<(Found, Instant)>,
    /// The table is to be reported even if no counter changes.
    is_due: bool,
    /// All of it was reported.
    is_synced: bool,
}

impl Feed for Follower {
    /// Polls. What changes is found by comparing, so there is no place to go on at.
    async fn session(&mut self, link: &mut Link) -> Result<()> {
        let client = Client::connect(&self.config.socket, &self.endpoint).await?;
        let mut session =
            Session { client, print: None, table: None, is_due: true, is_synced: false };
        loop {
            let started = Instant::now();
            self.poll(&mut session, link).await?;
            let pause = Duration::from_millis(self.config.poll_milliseconds);
            sleep(pause.max(started.elapsed() * PATIENCE)).await;
        }
    }

    async fn down(&mut self, errors: Vec<SourceError>) {
        self.reporter.send(Report::Down(errors.into_iter().collect()));
    }
}

impl Follower {
    /// Nothing is asked yet.
    pub fn new(config: BirdConfig, me: Me, reporter: Reporter) -> Self {
        Self {
            within: config.within.iter().map(|cidr| cidr.0).collect(),
            endpoint: Endpoint::new(format!("BIRD at {}", config.socket.display())),
            config,
            me,
            reporter,
            claims: Claims::new(),
            names: NodeNames::new(),
            boot: None,
            young: None,
        }
    }

    async fn poll(&mut self, session: &mut Session, link: &mut Link) -> Result<()> {
        let sessions = session.sessions().await?;
        let status = session.status().await?;
        if sessions.names != self.names {
            self.names.clone_from(&sessions.names);
            self.reporter.send(Report::Names(sessions.names.clone()));
        }
        let changed =
            session.print.as_ref().is_none_or(|(print, _)| !print.is_same(&sessions.print));
        if changed {
            session.print = Some((sessions.print.clone(), Instant::now()));
        }
        let old = session.table.as_ref().is_none_or(|(_, fetched)| fetched.elapsed() >= WHOLE);
        if changed || old {
            let found = session.fetch(&self.config.table, &self.me, &self.within).await?;
            session.table = Some((found, Instant::now()));
            session.is_due = true;
            // It may have begun to take its routes back while it told them.
            session.status().await?;
        }
        let is_settled = self.is_settled(session, &sessions, &status);
        if session.is_due
            && let Some((found, _)) = &session.table
        {
            self.report(found, is_settled, session.is_synced)?;
        }
        if is_settled {
            self.boot = Some(status.run());
            self.young = None;
            session.is_synced = true;
            session.is_due = false;
            link.up();
        } else {
            // Again with each poll, until what is missing counts.
            session.is_due = true;
            let why = if status.is_changing {
                "is changing its configuration"
            } else {
                "has just started"
            };
            let most = self.config.settle_seconds;
            let error = self.endpoint.error(format!(
                "it {why}: what it does not have stays until its sessions are up, at most {most} s"
            ));
            self.reporter.send(Report::Down(error.into()));
        }
        Ok(())
    }

    /// Whether what is not in the table is gone.
    fn is_settled(&mut self, session: &Session, sessions: &Sessions, status: &Status) -> bool {
        let run = status.run();
        let is_known = self.boot.as_ref().is_some_and(|boot| boot.is_same(&run));
        if is_known && !status.is_changing {
            return true;
        }
        let seen = match &self.young {
            Some((boot, seen)) if boot.is_same(&run) => seen.elapsed(),
            _ => {
                self.young = Some((run, Instant::now()));
                Duration::ZERO
            }
        };
        // Its age counts only for its start, not for a new configuration.
        let age = status.up_for().filter(|_| !is_known).unwrap_or_default().max(seen);
        let is_quiet = session.print.as_ref().is_some_and(|(_, since)| since.elapsed() >= QUIET);
        let is_whole = sessions.awaited == 0 && !status.is_recovering && !status.is_changing;
        is_whole && is_quiet || age >= Duration::from_secs(self.config.settle_seconds)
    }

    /// Tells what is new, and, of a table that is `whole`, what is gone.
    /// `is_synced`: the whole has been told before by this connection.
    fn report(&mut self, found: &Found, whole: bool, is_synced: bool) -> Result<()> {
        if found.understood == 0
            && let Some((origin, why)) = found.problems.first_key_value()
        {
            let table = &self.config.table;
            let what = format!("nothing in table {table} is understood: {origin}: {why}");
            return Err(self.endpoint.error(what));
        }
        let mut now = found.claims.clone();
        for (key, claim) in &self.claims {
            if !whole || found.unclear.contains(&key.0) {
                now.entry(key.clone()).or_insert(*claim);
            }
        }
        if whole && !is_synced {
            let claims = now.iter().map(|(key, claim)| change(key, Some(*claim))).collect();
            let problems = found.problems.clone().into_iter().collect();
            self.reporter.send(Report::Snapshot { claims, problems });
        } else {
            self.report_changes(&now);
            self.reporter.send(Report::Problems(found.problems.clone().into_iter().collect()));
            if whole {
                self.reporter.send(Report::Up);
            }
        }
        self.claims = now;
        Ok(())
    }

    fn report_changes(&self, now: &Claims) {
        let new = now.iter().filter(|(key, claim)| self.claims.get(key) != Some(claim));
        let new = new.map(|(key, claim)| change(key, Some(*claim)));
        let gone = self.claims.keys().filter(|key| !now.contains_key(key));
        let changes: Vec<Change> = new.chain(gone.map(|key| change(key, None))).collect();
        if !changes.is_empty() {
            self.reporter.send(Report::Changes(changes));
        }
    }
}

impl Session {
    async fn sessions(&mut self) -> Result<Sessions> {
        let mut sessions = Sessions::default();
        self.client.ask("show protocols all", |line| sessions.take(&line)).await?;
        Ok(sessions)
    }

    /// An error while BIRD stops: its table says nothing any more.
    async fn status(&mut self) -> Result<Status> {
        let mut status = Status::default();
        self.client.ask("show status", |line| status.take(&line)).await?;
        if status.is_stopping {
            return Err(self.client.error("it is shutting down"));
        }
        Ok(status)
    }

    async fn fetch(&mut self, table: &str, me: &Me, within: &[Ipv4Net]) -> Result<Found> {
        let mut reader = Reader::new(me.address, within);
        let question = format!("show route table {table} all");
        let asked = self.client.ask(&question, |line| reader.take(&line)).await;
        asked.map_err(|error| {
            let is_refused = error.why().starts_with("refused: ");
            if is_refused && self.client.is_version_1() && table == BirdConfig::default().table {
                error.remedy(
                    "BIRD 1.6 has no such table, its own is `master`: set sources.bird.table to it",
                )
            } else {
                error
            }
        })?;
        Ok(reader.finish())
    }
}

fn change((cidr, origin): &(Ipv4Net, Origin), claim: Option<Claim>) -> Change {
    Change { cidr: *cidr, origin: origin.clone(), claim }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
