//! Metrics and health over HTTP, in a thread of its own.
//!
//! The daemon's loop has no part in an answer: it publishes its report, the thread reads that and the
//! maps. So a scrape delays no comparison, and `/healthz` answers when the loop hangs. What keeps the
//! thread from listening is one of the daemon's problems, and no reason to stop.

mod answer;
mod connection;
mod figures;
mod health;

use std::{io, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use self::answer::Site;
use super::report::{Code, Problem, State};
use crate::{
    bpf::Pins,
    config::{HttpConfig, Listen},
};

/// How many clients are served at once. Others wait.
const CLIENTS: usize = 128;
/// The pause before the address is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The pause after a connection that could not be taken: the process has no descriptor left.
const BREATH: Duration = Duration::from_millis(100);

/// The thread that serves; it ends when this is dropped.
pub struct Http {
    config: watch::Sender<HttpConfig>,
}

/// What keeps the thread from serving.
pub struct Troubles {
    reported: watch::Receiver<Option<Problem>>,
    has_ended: bool,
}

impl Http {
    /// Starts the thread, and does not wait for it.
    pub fn start(
        pins: &Pins,
        config: HttpConfig,
        report: watch::Receiver<Arc<State>>,
    ) -> (Self, Troubles) {
        let (config, active) = watch::channel(config);
        let (trouble, troubles) = watch::channel(None);
        let site = Site { pins: pins.clone(), config: active, report, figures: Arc::default() };
        let from_thread = trouble.clone();
        let started = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                if let Err(error) = run(&site, &from_thread) {
                    report_trouble(&from_thread, Some(ended(&format!("{error:#}"))));
                }
            })
            .context("starting the thread");
        if let Err(error) = started {
            report_trouble(&trouble, Some(ended(&format!("{error:#}"))));
        }
        (Self { config }, Troubles { reported: troubles, has_ended: false })
    }

    /// Serves as another configuration has it.
    pub fn configure(&self, config: HttpConfig) {
        self.config.send_if_modified(|active| {
            let is_new = *active != config;
            *active = config;
            is_new
        });
    }
}

impl Troubles {
    /// Waits for a change; returns what keeps the thread from serving now, if anything.
    pub async fn changed(&mut self) -> Option<Problem> {
        match self.reported.changed().await {
            Ok(()) => self.reported.borrow_and_update().clone(),
            Err(_) if self.has_ended => std::future::pending().await,
            Err(_) => {
                self.has_ended = true;
                let known = self.reported.borrow().clone();
                known.or_else(|| Some(ended("the thread that did it has ended")))
            }
        }
    }
}

/// Serves until the daemon lets go of it.
fn run(site: &Site, trouble: &watch::Sender<Option<Problem>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut config = site.config.clone();
        loop {
            let listen = config.borrow_and_update().listen;
            tokio::select! {
                other = config.wait_for(|config| config.listen != listen) => {
                    if other.is_err() {
                        return Ok(());
                    }
                }
                () = serve(listen, site, trouble) => {}
            }
        }
    })
}

/// Serves there for ever. Ending it closes the socket and all connections.
async fn serve(listen: Listen, site: &Site, trouble: &watch::Sender<Option<Problem>>) {
    let Listen::At(address) = listen else {
        report_trouble(trouble, None);
        return std::future::pending().await;
    };
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => report_trouble(trouble, Some(cannot_listen(address, &error))),
        }
        sleep(RETRY).await;
    };
    report_trouble(trouble, None);
    tracing::debug!("metrics and health at http://{address}");
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        // Nothing closes it.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let site = site.clone();
                clients.spawn(async move {
                    let answer = |request| {
                        let site = &site;
                        async move { answer::answer(site, &request).await }
                    };
                    connection::serve(stream, answer).await;
                    drop(place);
                });
            }
            Err(_) => sleep(BREATH).await,
        }
    }
}

fn report_trouble(trouble: &watch::Sender<Option<Problem>>, now: Option<Problem>) {
    trouble.send_if_modified(|known| {
        let is_new = *known != now;
        *known = now;
        is_new
    });
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Problem {
    let (why, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            "another process listens there".to_owned(),
            format!(
                "`ss -ltnp sport = :{}` names it; end it, or set http.listen to another address or \
                 to off",
                address.port()
            ),
        ),
        io::ErrorKind::AddrNotAvailable => (
            "this host does not have the address".to_owned(),
            "it is tried again; or set http.listen to an address of this host, or to off"
                .to_owned(),
        ),
        io::ErrorKind::PermissionDenied => (
            "the daemon may not use ports below 1024".to_owned(),
            "set http.listen to another port, or to off".to_owned(),
        ),
        _ => (error.to_string(), "set http.listen to another address, or to off".to_owned()),
    };
    let what = format!("metrics and health are not served at {address}: {why}");
    Problem::new(Code::Http, address.to_string(), what).remedy(remedy)
}

fn ended(why: &str) -> Problem {
    Problem::new(Code::Http, "", format!("metrics and health are not served: {why}"))
        .remedy("restart the daemon, which stops no traffic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_remedy_and_one_line() {
        let address = "127.0.0.1:9469".parse().unwrap();
        for (kind, said) in [
            (io::ErrorKind::AddrInUse, "another process"),
            (io::ErrorKind::AddrNotAvailable, "does not have the address"),
            (io::ErrorKind::PermissionDenied, "below 1024"),
            (io::ErrorKind::OutOfMemory, "out of memory"),
        ] {
            let problem = cannot_listen(address, &kind.into());
            assert_eq!((problem.code, &*problem.subject), (Code::Http, "127.0.0.1:9469"));
            let text = problem.text();
            assert!(text.contains(said) && text.contains("http.listen"), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }

    /// A thread that panics is reported once, and wakes the daemon no more.
    #[tokio::test(start_paused = true)]
    async fn a_thread_that_has_ended_is_a_problem() {
        let (trouble, reported) = watch::channel(None);
        let mut troubles = Troubles { reported, has_ended: false };
        report_trouble(&trouble, Some(ended("first")));
        report_trouble(&trouble, Some(ended("first")));
        assert!(troubles.changed().await.unwrap().what.ends_with("first"));
        report_trouble(&trouble, None);
        assert_eq!(troubles.changed().await, None);
        drop(trouble);
        assert!(troubles.changed().await.unwrap().what.ends_with("has ended"));
        let more = tokio::time::timeout(Duration::from_secs(60), troubles.changed());
        assert!(more.await.is_err());
    }
}
