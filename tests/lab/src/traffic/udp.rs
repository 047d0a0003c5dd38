//! Single datagrams, there and back, and trains of them sent by UDP GSO.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt::UdpGsoSegment},
};

use super::{
    Pattern, TIMEOUT,
    sockopt::{set_df, set_no_checksum, set_receive_buffer},
};
use crate::netns::Netns;

/// What to send.
#[derive(Debug, Clone)]
pub struct Options {
    /// Payload bytes (100); the IP packet is 28 longer.
    pub size: usize,
    /// Whether datagrams carry DF (no: the kernel may fragment).
    pub df: bool,
    /// Whether datagrams and answers carry checksums (yes).
    pub checksum: bool,
    /// The client's own port (any).
    pub source_port: u16,
    /// The longest wait for the datagram, and for the answer. Tests that
    /// expect none set it low.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { size: 100, df: false, checksum: true, source_port: 0, timeout: TIMEOUT }
    }
}

/// A datagram that arrived right, and whose answer did, too.
#[derive(Debug, Clone)]
pub struct Report {
    /// The client's address as the server saw it.
    pub seen: SocketAddrV4,
    /// Where the answer came from, as the client saw it.
    pub answered_by: SocketAddrV4,
}

/// Sends one datagram from `client` to `address`; `server`, listening on
/// `port`, checks it and sends it back; the client checks it again.
///
/// An error means: it could not be sent, did not arrive, or arrived wrong.
pub fn exchange(
    client: &Netns,
    address: SocketAddrV4,
    server: &Netns,
    port: u16,
    options: &Options,
) -> Result<Report> {
    let server_socket = bind(server, port, options.timeout)?;
    let client_socket = bind(client, options.source_port, options.timeout)?;
    set_df(&server_socket, options.df)?;
    set_df(&client_socket, options.df)?;
    if !options.checksum {
        set_no_checksum(&server_socket)?;
        set_no_checksum(&client_socket)?;
    }
    let pattern = Pattern::new();
    let content = pattern.at(0, options.size);
    client_socket
        .send_to(content, address)
        .with_context(|| format!("cannot send {} bytes to {address}", options.size))?;
    let seen = receive(&server_socket, content).context("the server's datagram")?;
    server_socket.send_to(content, seen).with_context(|| format!("cannot answer {seen}"))?;
    let answered_by = receive(&client_socket, content).context("the client's answer")?;
    Ok(Report { seen, answered_by })
}

/// Sends datagrams of `segment` bytes as one super-packet of `count` segments
/// (UDP GSO) and checks that each arrives, in order, whole.
///
/// Returns the client's address as the server saw it.
pub fn gso(
    client: &Netns,
    address: SocketAddrV4,
    server: &Netns,
    port: u16,
    (segment, count): (u16, usize),
    timeout: Duration,
) -> Result<SocketAddrV4> {
    let server_socket = bind(server, port, timeout)?;
    let client_socket = bind(client, 0, timeout)?;
    setsockopt(&client_socket, UdpGsoSegment, &i32::from(segment))
        .context("cannot set UDP_SEGMENT")?;
    let segment = usize::from(segment);
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let pattern = &pattern;
        let server = scope.spawn(move || {
            let mut seen = None;
            for number in 0..count {
                let content = pattern.at((number * segment) as u64, segment);
                let from = receive(&server_socket, content)
                    .with_context(|| format!("segment {number} of {count}"))?;
                seen = Some(from);
            }
            seen.context("nothing was to be sent")
        });
        let sent = client_socket
            .send_to(pattern.at(0, segment * count), address)
            .with_context(|| format!("cannot send {count} segments to {address}"));
        let seen = server.join().map_err(|_| anyhow!("the server panicked"))?;
        sent.and(seen)
    })
}

/// A socket in `netns`, which waits for `timeout` at most; port 0: any.
pub fn bind(netns: &Netns, port: u16, timeout: Duration) -> Result<UdpSocket> {
    let socket = netns.run(|| {
        super::bind(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .with_context(|| format!("cannot bind UDP port {port}"))
    })?;
    socket.set_read_timeout(Some(timeout))?;
    set_receive_buffer(&socket, 8 << 20)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, content: &[u8]) -> Result<SocketAddrV4> {
    let mut buffer = vec![0; 1 << 16];
    let (len, from) = loop {
        match socket.recv_from(&mut buffer) {
            Ok(got) => break got,
            // A signal to the process, not to the test.
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Err(error) => return Err(error).context("nothing came"),
        }
    };
    let SocketAddr::V4(from) = from else { bail!("it came from {from}") };
    ensure!(len == content.len(), "{len} bytes came from {from}, not {}", content.len());
    ensure!(buffer[..len] == *content, "wrong content came from {from}");
    Ok(from)
}
