//! Which addresses a source's servers have.
//!
//! This host's own path to them must not lead into the tunnel, so the table of routes refuses
//! prefixes around them. A name is resolved by `getaddrinfo`, as the client of the source does,
//! when the source starts to connect and again every minute or two. What serves behind a Service or a load
//! balancer is not a matter of names: the datastore has a list of it ([`Report::Backends`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::future::join_all;
use tokio::{net::lookup_host, time::timeout};

use super::{Report, Reporter, backoff::Backoff};

/// The IPv4 addresses of each host; `None`: it was never resolved.
pub type ServerAddresses = BTreeMap<String, Option<BTreeSet<Ipv4Addr>>>;

/// How long a session waits for names before it connects: their servers may be reachable by other
/// addresses.
const BRIEFLY: Duration = Duration::from_secs(2);
/// How long a resolver may take; longer than glibc tries by itself.
const PATIENTLY: Duration = Duration::from_secs(30);
/// The pause between two look-ups, before chance adds to it: a fleet asks one resolver.
const AGAIN: Duration = Duration::from_secs(60);
/// The first pause while a host has no address yet; it grows up to the other one.
const SOONER: Duration = Duration::from_secs(5);

/// Looks up the hosts of a source's servers and reports their addresses.
pub struct Servers {
    reporter: Reporter,
    /// What they are to the source.
    report: fn(ServerAddresses) -> Report,
    known: ServerAddresses,
    is_reported: bool,
}

impl Servers {
    /// Knows no hosts yet.
    #[must_use]
    pub fn new(reporter: Reporter, report: fn(ServerAddresses) -> Report) -> Self {
        Self { reporter, report, known: ServerAddresses::new(), is_reported: false }
    }

    /// Looks up these hosts, which are all there are now, and reports. Waits only briefly.
    pub async fn look_up(&mut self, hosts: impl IntoIterator<Item = String>) {
        let is_new = replace_hosts(&mut self.known, hosts.into_iter().collect());
        self.is_reported &= !is_new;
        self.look(BRIEFLY).await;
    }

    /// Looks them up again from time to time, and reports what changed.
    pub async fn follow(&mut self) -> Infallible {
        let (mut seldom, mut sooner) = (Backoff::new(AGAIN, AGAIN), Backoff::new(SOONER, AGAIN));
        loop {
            if self.known.values().all(Option::is_some) {
                sooner.reset();
                seldom.pause().await;
            } else {
                sooner.pause().await;
            }
            self.look(PATIENTLY).await;
        }
    }

    async fn look(&mut self, patience: Duration) {
        let hosts: Vec<String> = self.known.keys().cloned().collect();
        let answers = join_all(hosts.into_iter().map(|host| async move {
            let found = timeout(patience, resolve(&host)).await.unwrap_or_default();
            (host, found)
        }));
        let is_new = take(&mut self.known, answers.await);
        self.is_reported &= !is_new;
        if !std::mem::replace(&mut self.is_reported, true) {
            self.reporter.send((self.report)(self.known.clone()));
        }
    }
}

/// Returns the host of a URL, without user, port and the brackets of an IPv6 address; `None`: it
/// has none.
#[must_use]
pub fn host_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next()?,
        None => host.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

/// The IPv4 addresses of a host; none if it cannot be resolved.
async fn resolve(host: &str) -> BTreeSet<Ipv4Addr> {
    let Ok(found) = lookup_host((host, 0)).await else { return BTreeSet::new() };
    let ipv4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    };
    found.filter_map(|socket| ipv4(socket.ip())).collect()
}

/// Forgets all other hosts; whether any is another now.
fn replace_hosts(known: &mut ServerAddresses, hosts: BTreeSet<String>) -> bool {
    let is_new = !known.keys().eq(hosts.iter());
    known.retain(|host, _| hosts.contains(host));
    for host in hosts {
        known.entry(host).or_default();
    }
    is_new
}

/// Takes in what look-ups found; whether any of it is new. A host that is not resolved now, or not to
/// an IPv4 address, keeps those it had.
fn take(known: &mut ServerAddresses, answers: Vec<(String, BTreeSet<Ipv4Addr>)>) -> bool {
    let mut is_new = false;
    for (host, found) in answers.into_iter().filter(|(_, found)| !found.is_empty()) {
        let Some(before) = known.get_mut(&host) else { continue };
        is_new |= before.as_ref() != Some(&found);
        *before = Some(found);
    }
    is_new
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::sources::SourceKind;

    fn addresses(all: &[&str]) -> BTreeSet<Ipv4Addr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn the_host_of_a_url() {
        for (url, host) in [
            ("https://172.16.35.1:6443", Some("172.16.35.1")),
            ("https://172.16.35.1/", Some("172.16.35.1")),
            ("172.16.35.1:2379", Some("172.16.35.1")),
            ("https://api.example.com:6443/path@x", Some("api.example.com")),
            ("http://user:word@etcd.example.com:2379", Some("etcd.example.com")),
            ("https://api.example.com?x=http://other", Some("api.example.com")),
            ("https://[2001:db8::1]:6443", Some("2001:db8::1")),
            ("https://:6443", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }

    #[test]
    fn a_host_keeps_its_addresses_until_it_has_others() {
        let [old, new] = [addresses(&["192.0.2.7"]), addresses(&["192.0.2.7", "192.0.2.8"])];
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut known = ServerAddresses::new();
        assert!(replace_hosts(&mut known, hosts(&["a", "b"])));
        assert!(!replace_hosts(&mut known, hosts(&["a", "b"])));
        for (host, found, is_new, then) in [
            // Before any was found, and after.
            ("a", addresses(&[]), false, None),
            ("a", old.clone(), true, Some(&old)),
            ("a", old.clone(), false, Some(&old)),
            ("a", addresses(&[]), false, Some(&old)),
            ("a", new.clone(), true, Some(&new)),
            // The look-up began before the file was saved.
            ("gone", old.clone(), false, Some(&new)),
        ] {
            assert_eq!(take(&mut known, vec![(host.to_owned(), found)]), is_new, "{host}");
            assert_eq!(known["a"].as_ref(), then);
            assert_eq!(known["b"], None);
        }
        assert!(replace_hosts(&mut known, hosts(&["a"])));
        assert_eq!(known, ServerAddresses::from([("a".to_owned(), Some(new))]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_is_reported_once() {
        let (sender, mut reports) = unbounded_channel();
        let mut servers = Servers::new(Reporter::new(SourceKind::Etcd, sender), Report::Servers);
        // `.invalid` never resolves: RFC 6761 §6.4.
        let hosts = || ["192.0.2.7", "2001:db8::1", "none.invalid"].map(str::to_owned);
        servers.look_up(hosts()).await;
        let found = Report::Servers(ServerAddresses::from([
            ("192.0.2.7".to_owned(), Some(addresses(&["192.0.2.7"]))),
            ("2001:db8::1".to_owned(), None),
            ("none.invalid".to_owned(), None),
        ]));
        assert_eq!(reports.try_recv().unwrap(), (SourceKind::Etcd, found));
        servers.look_up(hosts()).await;
        assert!(reports.try_recv().is_err());
        let found = Report::Servers(ServerAddresses::new());
        servers.look_up([]).await;
        assert_eq!(reports.try_recv().unwrap(), (SourceKind::Etcd, found));
    }

    /// Whether it was resolved before or not; time is not waited for.
    #[tokio::test(start_paused = true)]
    async fn a_host_is_looked_up_again() {
        let here = addresses(&["127.0.0.1"]);
        for before in [None, Some(addresses(&["192.0.2.7"]))] {
            let (sender, mut reports) = unbounded_channel();
            let mut servers =
                Servers::new(Reporter::new(SourceKind::Etcd, sender), Report::Servers);
            servers.known.insert("localhost".to_owned(), before);
            servers.is_reported = true;
            let report = tokio::select! {
                report = reports.recv() => report.unwrap().1,
                never = servers.follow() => match never {},
            };
            let found = [("localhost".to_owned(), Some(here.clone()))];
            assert_eq!(report, Report::Servers(found.into()));
        }
    }
}
