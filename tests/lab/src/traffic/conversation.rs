//! A long-lived conversation: numbered requests at a steady pace, each answered.
//!
//! For tests about the moment when it is cut: how many answers came, and when
//! the last one did.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
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
    answers: Arc<Answers>,
    threads: Vec<JoinHandle<()>>,
    /// The client's own address.
    pub client: SocketAddrV4,
}

#[derive(Debug, Default)]
struct Answers {
    count: AtomicU64,
    last: Mutex<Option<Instant>>,
    seen: Mutex<Option<SocketAddr>>,
}

impl Answers {
    fn came(&self, bytes: usize) {
        self.count.fetch_add((bytes / SIZE) as u64, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
        conversation.threads = vec![
            spawn(&stop, &answers, move |answers| {
                echo(&server, answers);
            }),
            spawn(&stop, &answers, move |_| {
                let _ = asking.send(&[1; SIZE]);
                thread::sleep(PACE);
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
        conversation.threads = vec![
            spawn(&stop, &answers, move |_| {
                let mut buffer = [0; 16 * SIZE];
                if let Ok(bytes) = (&server).read(&mut buffer) {
                    let _ = (&server).write_all(&buffer[..bytes]);
                }
            }),
            spawn(&stop, &answers, move |_| {
                let _ = (&asking).write_all(&[1; SIZE]);
                thread::sleep(PACE);
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
        Self { stop: Arc::clone(stop), answers: Arc::clone(answers), threads: Vec::new(), client }
    }

    /// How many answers have come.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.count.load(Ordering::Relaxed)
    }

    /// When the last answer came.
    #[must_use]
    pub fn last_answer(&self) -> Option<Instant> {
        *self.answers.last.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Waits until no answer has come for `silence`; when the last one did, or
    /// `None` if they never cease.
    #[must_use]
    pub fn wait_for_silence(&self, silence: Duration, timeout: Duration) -> Option<Instant> {
        let end = Instant::now() + timeout;
        while Instant::now() < end {
            let last = self.last_answer()?;
            if last.elapsed() >= silence {
                return Some(last);
            }
            thread::sleep(TICK);
        }
        None
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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
