//! A TCP bulk transfer whose content is checked where it arrives.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use socket2::SockRef;

use super::{Pattern, TIMEOUT, bind};
use crate::netns::Netns;

/// What goes where.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much (8 MiB).
    pub mebibytes: u64,
    /// Whether the server sends, and not the client (no).
    pub server_sends: bool,
    /// The longest wait for a connection, or for the next byte.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { mebibytes: 8, server_sends: false, timeout: TIMEOUT }
    }
}

/// A transfer that arrived whole and right.
#[derive(Debug, Clone)]
pub struct Report {
    /// Bytes that the receiver checked.
    pub bytes: u64,
    /// From the connection to the receiver's last byte.
    pub seconds: f64,
    /// The client's address as the server saw it.
    pub peer: SocketAddrV4,
}

impl Report {
    /// The speed.
    #[must_use]
    pub fn mbit_per_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rounded figure for people")]
        let bits = (self.bytes * 8) as f64;
        bits / self.seconds / 1e6
    }
}

/// Lets `client` connect to `address` and `server` listen on `port`, and sends
/// the bulk from one to the other.
///
/// The two ports differ where a service translates between them. An error
/// means: no connection, a stall, or wrong content.
pub fn bulk(
    client: &Netns,
    address: SocketAddrV4,
    server: &Netns,
    port: u16,
    options: &Options,
) -> Result<Report> {
    let listener = server.run(|| {
        bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .with_context(|| format!("cannot listen on TCP port {port}"))
    })?;
    SockRef::from(&listener).set_read_timeout(Some(options.timeout))?;
    let pattern = Pattern::new();
    let total = options.mebibytes << 20;
    thread::scope(|scope| {
        let (pattern, options) = (&pattern, options);
        let server = scope.spawn(move || -> Result<SocketAddrV4> {
            let (mut socket, peer) = listener.accept().context("no client came")?;
            set_timeouts(&socket, options)?;
            if options.server_sends {
                send(&mut socket, pattern, total)?;
            } else {
                receive(&mut socket, pattern, total)?;
            }
            let SocketAddr::V4(peer) = peer else { bail!("an IPv6 client: {peer}") };
            Ok(peer)
        });
        let seconds = client.run(|| {
            let mut socket = TcpStream::connect_timeout(&address.into(), options.timeout)
                .with_context(|| format!("cannot connect to {address}"))?;
            set_timeouts(&socket, options)?;
            let start = Instant::now();
            if options.server_sends {
                receive(&mut socket, pattern, total)?;
            } else {
                send(&mut socket, pattern, total)?;
            }
            Ok(start.elapsed().as_secs_f64())
        });
        let peer = server.join().map_err(|_| anyhow!("the server panicked"))?;
        // Both ends' views: the client's "timed out" is explained by the
        // server's "wrong byte".
        match (seconds, peer) {
            (Ok(seconds), Ok(peer)) => Ok(Report { bytes: total, seconds, peer }),
            (Err(client), Ok(_)) => Err(client.context("TCP client")),
            (Ok(_), Err(server)) => Err(server.context("TCP server")),
            (Err(client), Err(server)) => bail!("TCP client: {client:#}; server: {server:#}"),
        }
    })
}

fn set_timeouts(socket: &TcpStream, options: &Options) -> Result<()> {
    socket.set_read_timeout(Some(options.timeout))?;
    socket.set_write_timeout(Some(options.timeout)).context("cannot set a timeout")
}

/// Sends, then waits until the receiver has seen the last byte.
fn send(socket: &mut TcpStream, pattern: &Pattern, total: u64) -> Result<()> {
    let mut sent = 0;
    while sent < total {
        let left = usize::try_from(total - sent).unwrap_or(usize::MAX);
        let chunk = pattern.at(sent, left);
        socket.write_all(chunk).with_context(|| format!("stalled after {sent} bytes"))?;
        sent += chunk.len() as u64;
    }
    let mut done = [0];
    socket.read_exact(&mut done).context("the receiver never said it had everything")
}

fn receive(socket: &mut TcpStream, pattern: &Pattern, total: u64) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    while received < total {
        let got = socket
            .read(&mut buffer)
            .with_context(|| format!("stalled after {received} of {total} bytes"))?;
        ensure!(got > 0, "the sender closed after {received} of {total} bytes");
        if let Some(offset) = pattern.difference(received, &buffer[..got]) {
            bail!("byte {offset} of {total} is wrong");
        }
        received += got as u64;
    }
    ensure!(received == total, "{received} bytes arrived, {total} were sent");
    socket.write_all(&[1]).context("cannot confirm")
}
