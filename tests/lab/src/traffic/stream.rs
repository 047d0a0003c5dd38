//! A paced UDP stream with sequence numbers: which packets were lost?
//!
//! For "without a lost packet" tests: start it, kill the daemon or change a
//! route, stop it, and read exactly what did not arrive.

use std::{
    collections::HashSet,
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::udp::bind;
use crate::netns::Netns;

/// How long the receiver goes on after the last packet was sent, at most.
const DRAIN: Duration = Duration::from_secs(2);
/// The most packets that a sender that stood still makes up for: a burst of any length would overflow
/// queues, which is no fault of the data plane.
const CATCH_UP: u32 = 64;
/// How often both threads look whether they are to stop.
const TICK: Duration = Duration::from_millis(20);

/// How to send.
#[derive(Debug, Clone)]
pub struct Options {
    /// Packets per second (500).
    pub rate: u32,
    /// Payload bytes (200), at least 8.
    pub size: usize,
    /// The sender's own port (any).
    pub source_port: u16,
    /// Whether the receiver sends each packet back (no): then conntrack calls the
    /// flow established. Nobody reads the answers.
    pub answered: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rate: 500, size: 200, source_port: 0, answered: false }
    }
}

/// What became of the stream.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Packets sent, or tried to: a refused `send` is a lost packet.
    pub sent: u64,
    /// Different packets that arrived.
    pub received: u64,
    /// The sequence numbers, from 0, that never arrived.
    pub lost: Vec<u64>,
    /// Packets that arrived more than once.
    pub duplicates: u64,
    /// Packets that arrived after a later one.
    pub reordered: u64,
    /// Every address they came from, as the receiver saw it.
    pub seen: Vec<SocketAddr>,
    /// The first error of `send`.
    pub send_error: Option<String>,
}

/// A stream under way.
#[derive(Debug)]
pub struct Stream {
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<(u64, Option<String>)>>,
    receiver: Option<JoinHandle<Arrivals>>,
}

#[derive(Debug, Default)]
struct Arrivals {
    numbers: HashSet<u64>,
    highest: u64,
    duplicates: u64,
    reordered: u64,
    seen: Vec<SocketAddr>,
}

impl Stream {
    /// Starts to send from `client` to `address`; `server` listens on `port`.
    pub fn start(
        client: &Netns,
        address: SocketAddrV4,
        server: &Netns,
        port: u16,
        options: &Options,
    ) -> Result<Self> {
        let receiver_socket = bind(server, port, TICK)?;
        let sender_socket = bind(client, options.source_port, TICK)?;
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_receiving = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let receiver = thread::spawn({
            let (stop, received) = (Arc::clone(&stop_receiving), Arc::clone(&received));
            let answered = options.answered;
            move || receive(&receiver_socket, answered, &stop, &received)
        });
        let sender = thread::spawn({
            let (stop, options) = (Arc::clone(&stop_sending), options.clone());
            move || send(&sender_socket, address, &options, &stop)
        });
        Ok(Self {
            stop_sending,
            stop_receiving,
            received,
            sender: Some(sender),
            receiver: Some(receiver),
        })
    }

    /// How many different packets have arrived so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `more` packets have arrived from now on; whether they did.
    #[must_use]
    pub fn wait_for(&self, more: u64, timeout: Duration) -> bool {
        let (end, goal) = (Instant::now() + timeout, self.received() + more);
        while self.received() < goal {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Ends the stream, waits for what is under way, and reports.
    pub fn stop(mut self) -> Result<Report> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Report> {
        self.stop_sending.store(true, Ordering::Relaxed);
        let (Some(sender), Some(receiver)) = (self.sender.take(), self.receiver.take()) else {
            return Ok(Report::default());
        };
        let sent = sender.join();
        if let Ok((sent, _)) = &sent {
            let end = Instant::now() + DRAIN;
            while self.received() < *sent && Instant::now() < end {
                thread::sleep(Duration::from_millis(2));
            }
        }
        self.stop_receiving.store(true, Ordering::Relaxed);
        let arrivals = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let (sent, send_error) = sent.map_err(|_| anyhow!("the sender panicked"))?;
        Ok(Report {
            sent,
            received: arrivals.numbers.len() as u64,
            lost: (0..sent).filter(|number| !arrivals.numbers.contains(number)).collect(),
            duplicates: arrivals.duplicates,
            reordered: arrivals.reordered,
            seen: arrivals.seen,
            send_error,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A test that failed half-way must not leave threads that send.
        let _ = self.finish();
    }
}

fn send(
    socket: &UdpSocket,
    address: SocketAddrV4,
    options: &Options,
    stop: &AtomicBool,
) -> (u64, Option<String>) {
    let mut packet = vec![0; options.size.max(8)];
    let (mut number, mut failure) = (0_u64, None);
    let pause = Duration::from_secs(1) / options.rate.max(1);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        packet[..8].copy_from_slice(&number.to_be_bytes());
        if let Err(error) = socket.send_to(&packet, address) {
            failure.get_or_insert_with(|| format!("packet {number} to {address}: {error}"));
        }
        number += 1;
        due += pause;
        let now = Instant::now();
        due = now.checked_sub(CATCH_UP * pause).map_or(due, |earliest| due.max(earliest));
        thread::sleep(due.saturating_duration_since(now));
    }
    (number, failure)
}

fn receive(
    socket: &UdpSocket,
    answered: bool,
    stop: &AtomicBool,
    received: &AtomicU64,
) -> Arrivals {
    let mut arrivals = Arrivals::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        // Once it is to stop, it takes what has arrived already, and waits for nothing.
        let is_stopping = stop.load(Ordering::Relaxed);
        if is_stopping {
            let _ = socket.set_nonblocking(true);
        }
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            if is_stopping {
                break;
            }
            // A timeout only means: look whether to stop.
            continue;
        };
        let Some(number) = buffer[..len].first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
        else {
            continue;
        };
        if answered {
            // What is lost on the way back is not this stream's business.
            let _ = socket.send_to(&buffer[..len], from);
        }
        if !arrivals.seen.contains(&from) {
            arrivals.seen.push(from);
        }
        if !arrivals.numbers.insert(number) {
            arrivals.duplicates += 1;
            continue;
        }
        if number < arrivals.highest {
            arrivals.reordered += 1;
        }
        arrivals.highest = arrivals.highest.max(number);
        received.store(arrivals.numbers.len() as u64, Ordering::Relaxed);
    }
    arrivals
}
