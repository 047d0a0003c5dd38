//! One TCP connection, as fast as it goes until told to stop: progress, pauses,
//! and how it ended.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use socket2::SockRef;

use super::{TIMEOUT, bind};
use crate::netns::Netns;

const TICK: Duration = Duration::from_millis(20);
/// The most of one wait that counts: it lasts a tick, and only a machine that stands still makes it
/// much longer.
const LONGEST_WAIT: Duration = Duration::from_millis(40);

/// How the receiver saw it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order (FIN).
    Closed,
    /// By a reset.
    Reset,
    /// Not at all: nothing more came.
    Silence,
}

/// What the receiver saw.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Bytes that arrived.
    pub bytes: u64,
    /// The longest time that the receiver waited without any. What it did not wait, since the
    /// machine stood still, does not count.
    pub longest_pause: Duration,
    /// How it ended.
    pub end: End,
}

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    abort: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Report>>,
}

impl Flood {
    /// Lets `client` send to `address`, and `server` listen on `port`.
    pub fn start(client: &Netns, address: SocketAddrV4, server: &Netns, port: u16) -> Result<Self> {
        let listener = server.run(|| {
            bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
                .with_context(|| format!("cannot listen on TCP port {port}"))
        })?;
        let client = client.run(|| {
            TcpStream::connect_timeout(&address.into(), TIMEOUT)
                .with_context(|| format!("cannot connect to {address}"))
        })?;
        SockRef::from(&listener).set_read_timeout(Some(TIMEOUT))?;
        let (server, _) = listener.accept().context("no client came")?;
        client.set_write_timeout(Some(TICK))?;
        server.set_read_timeout(Some(TICK))?;
        let (stop, abort) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let received = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let (stop, abort) = (Arc::clone(&stop), Arc::clone(&abort));
            move || send(&client, &stop, &abort)
        });
        let receiver = thread::spawn({
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || receive(&server, &stop, &received)
        });
        Ok(Self { stop, abort, received, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Bytes that have arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Closes the connection in order.
    pub fn close(mut self) -> Result<Report> {
        self.finish()
    }

    /// Breaks it off, so that the kernel sends a reset.
    pub fn reset(mut self) -> Result<Report> {
        self.abort.store(true, Ordering::Relaxed);
        self.finish()
    }

    fn finish(&mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().map_or(Ok(()), JoinHandle::join);
        let receiver = self.receiver.take().context("finished already")?;
        let report = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        sender.map_err(|_| anyhow!("the sender panicked"))?;
        Ok(report)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if self.receiver.is_some() {
            let _ = self.finish();
        }
    }
}

fn send(mut socket: &TcpStream, stop: &AtomicBool, abort: &AtomicBool) {
    let block = vec![0x5a; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        match socket.write(&block) {
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            // The receiver says how it ended.
            Err(_) => break,
        }
    }
    if abort.load(Ordering::Relaxed) {
        // Without lingering, close() throws away what is queued and resets.
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

fn receive(mut socket: &TcpStream, stop: &AtomicBool, received: &AtomicU64) -> Report {
    let mut buffer = vec![0; 1 << 20];
    let (mut pause, mut longest_pause) = (Duration::ZERO, Duration::ZERO);
    loop {
        let total = received.load(Ordering::Relaxed);
        let asked = Instant::now();
        let result = socket.read(&mut buffer);
        pause += asked.elapsed().min(LONGEST_WAIT);
        let end = match result {
            Ok(0) => End::Closed,
            Ok(bytes) => {
                received.fetch_add(bytes as u64, Ordering::Relaxed);
                longest_pause = longest_pause.max(pause);
                pause = Duration::ZERO;
                continue;
            }
            Err(error) if is_timeout(&error) => {
                if stop.load(Ordering::Relaxed) && pause > TIMEOUT {
                    End::Silence
                } else {
                    continue;
                }
            }
            Err(_) => End::Reset,
        };
        return Report { bytes: total, longest_pause, end };
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
