//! A long-lived conversation: numbered requests at a steady pace, each answered.
//!
//! For tests about what happens to it: how many answers came, and whether they cease.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::{TIMEOUT, bind, udp};
use crate::{netns::Netns, service::Protocol};

/// The pause between requests.
const PACE: Duration = Duration::from_millis(5);
/// How often threads look whether they are to stop.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of a request, and of its answer.
const SIZE: usize = 64;

/// A conversation under way.
#[derive(Debug)]
pub struct Conversation {
    stop: Arc<AtomicBool>,
    stop_asking: Arc<AtomicBool>,
    answers: Arc<Answers>,
    /// Who answers, and who listens to the answers.
    threads: Vec<JoinHandle<()>>,
    asking: Option<JoinHandle<()>>,
    /// The client's own address.
    pub client: SocketAddrV4,
}

#[derive(Debug, Default)]
struct Answers {
    /// Bytes of requests that were sent.
    asked: AtomicU64,
    /// Bytes of answers that came.
    came: AtomicU64,
    seen: Mutex<Option<SocketAddr>>,
}

impl Answers {
    fn asked(&self, bytes: usize) {
        self.asked.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn came(&self, bytes: usize) {
        self.came.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether each request has its answer.
    fn is_complete(&self) -> bool {
        self.came.load(Ordering::Relaxed) >= self.asked.load(Ordering::Relaxed)
    }

    fn saw(&self, client: SocketAddr) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }
}

impl Conversation {
    /// Lets `client` talk to `address`, and `server` listen on `port`.
    pub fn start(
        protocol: Protocol,
        client: &Netns,
        address: SocketAddrV4,
        server: &Netns,
        port: u16,
    ) -> Result<Self> {
        match protocol {
            Protocol::Udp => Self::udp(client, address, server, port),
            Protocol::Tcp => Self::tcp(client, address, server, port),
        }
    }

    fn udp(client: &Netns, address: SocketAddrV4, server: &Netns, port: u16) -> Result<Self> {
        let server = udp::bind(server, port, TICK)?;
        let client = udp::bind(client, 0, TICK)?;
        // The kernel lets only answers from this very address through.
        client.connect(address).with_context(|| format!("cannot connect to {address}"))?;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Answers::default()));
        let asking = client.try_clone()?;
        let mut conversation = Self::new(&stop, &answers, client.local_addr()?);
        conversation.ask(move || asking.send(&[1; SIZE]));
        conversation.threads = vec![
            spawn(&stop, &answers, move |answers| {
                echo(&server, answers);
            }),
            spawn(&stop, &answers, move |answers| {
                if let Ok(bytes) = client.recv(&mut [0; 2 * SIZE]) {
                    answers.came(bytes);
                }
            }),
        ];
        Ok(conversation)
    }

    fn tcp(client: &Netns, address: SocketAddrV4, server: &Netns, port: u16) -> Result<Self> {
        let listener = server.run(|| {
            bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
                .with_context(|| format!("cannot listen on TCP port {port}"))
        })?;
        let client = client.run(|| {
            TcpStream::connect_timeout(&address.into(), TIMEOUT)
                .with_context(|| format!("cannot connect to {address}"))
        })?;
        SockRef::from(&listener).set_read_timeout(Some(TIMEOUT))?;
        let (server, peer) = listener.accept().context("no client came")?;
        for socket in [&client, &server] {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))?;
        }
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Answers::default()));
        answers.saw(peer);
        let asking = client.try_clone()?;
        let mut conversation = Self::new(&stop, &answers, client.local_addr()?);
        conversation.ask(move || (&asking).write(&[1; SIZE]));
        conversation.threads = vec![
            spawn(&stop, &answers, move |_| {
                let mut buffer = [0; 16 * SIZE];
                if let Ok(bytes) = (&server).read(&mut buffer) {
                    let _ = (&server).write_all(&buffer[..bytes]);
                }
            }),
            spawn(&stop, &answers, move |answers| match (&client).read(&mut [0; 16 * SIZE]) {
                Ok(bytes @ 1..) => answers.came(bytes),
                Ok(0) | Err(_) => thread::sleep(Duration::from_millis(1)),
            }),
        ];
        Ok(conversation)
    }

    fn new(stop: &Arc<AtomicBool>, answers: &Arc<Answers>, client: SocketAddr) -> Self {
        let SocketAddr::V4(client) = client else { unreachable!("the lab has no IPv6") };
        Self {
            stop: Arc::clone(stop),
            stop_asking: Arc::default(),
            answers: Arc::clone(answers),
            threads: Vec::new(),
            asking: None,
            client,
        }
    }

    /// Asks by `send`, which returns how many bytes it sent.
    fn ask(&mut self, send: impl Fn() -> io::Result<usize> + Send + 'static) {
        self.asking = Some(spawn(&self.stop_asking, &self.answers, move |answers| {
            if let Ok(bytes) = send() {
                answers.asked(bytes);
            }
            thread::sleep(PACE);
        }));
    }

    /// Ends it once each request has its answer, so that TCP closes in order: a socket that is
    /// closed with something unread sends a reset.
    pub fn close(mut self) -> Result<()> {
        self.finish_asking();
        let end = Instant::now() + TIMEOUT;
        while !self.answers.is_complete() {
            ensure!(Instant::now() < end, "{} lacks an answer", self.client);
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn finish_asking(&mut self) {
        self.stop_asking.store(true, Ordering::Relaxed);
        if let Some(thread) = self.asking.take() {
            let _ = thread.join();
        }
    }

    /// How many answers have come.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.came.load(Ordering::Relaxed) / SIZE as u64
    }

    /// The client as the server sees it.
    #[must_use]
    pub fn seen(&self) -> Option<SocketAddr> {
        *self.answers.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `more` answers have come from now on; whether they did.
    #[must_use]
    pub fn wait_for(&self, more: u64, timeout: Duration) -> bool {
        let (end, goal) = (Instant::now() + timeout, self.answers() + more);
        while self.answers() < goal {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Waits until no answer comes for `silence`; whether there was such a time. What counts is
    /// how often it looked in vain: a machine that stands still is no silence.
    #[must_use]
    pub fn wait_for_silence(&self, silence: Duration, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let (mut answers, mut quiet) = (self.answers(), Duration::ZERO);
        while quiet < silence {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(TICK);
            let before = std::mem::replace(&mut answers, self.answers());
            quiet = if answers == before { quiet + TICK } else { Duration::ZERO };
        }
        true
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish_asking();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(
    stop: &Arc<AtomicBool>,
    answers: &Arc<Answers>,
    mut step: impl FnMut(&Answers) + Send + 'static,
) -> JoinHandle<()> {
    let (stop, answers) = (Arc::clone(stop), Arc::clone(answers));
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            step(&answers);
        }
    })
}

fn echo(server: &UdpSocket, answers: &Answers) {
    let mut buffer = [0; 2 * SIZE];
    if let Ok((bytes, from)) = server.recv_from(&mut buffer) {
        answers.saw(from);
        let _ = server.send_to(&buffer[..bytes], from);
    }
}
