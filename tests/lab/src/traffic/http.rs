//! The smallest HTTP server and client: who did the server see?

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use super::{TIMEOUT, bind};
use crate::netns::Netns;

/// A server in a pod, until dropped. It answers every request with one line:
/// `hello from NAME, client 10.20.42.31:40112`.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen; connections are accepted when this returns.
    pub fn start(netns: &Netns, port: u16, name: &str) -> Result<Self> {
        let listener = netns.run(|| {
            bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
                .with_context(|| format!("cannot listen on TCP port {port}"))
        })?;
        // On Linux it bounds accept(), too: so the thread notices `stop`.
        SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), name.to_owned());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((socket, peer)) = listener.accept() {
                    // A client that goes away is its own business.
                    let _ = answer(socket, peer, &name);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut socket: TcpStream, peer: SocketAddr, name: &str) -> Result<()> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let got = socket.read(&mut buffer)?;
        ensure!(got > 0 && request.len() < 1 << 16, "not a request");
        request.extend_from_slice(&buffer[..got]);
    }
    let body = format!("hello from {name}, client {peer}\n");
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// The server's answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// 200, one hopes.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The client's address as the server saw it.
    pub client: SocketAddrV4,
}

/// `GET /` from a namespace.
pub fn get(client: &Netns, address: SocketAddrV4, timeout: Duration) -> Result<Reply> {
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let text = send(client, address, &request, timeout)?;
    parse(&text).with_context(|| format!("a strange answer from {address}: {text:?}"))
}

/// Sends a text from a namespace, and returns all that comes until the server closes the connection.
pub fn send(
    client: &Netns,
    address: SocketAddrV4,
    request: &str,
    timeout: Duration,
) -> Result<String> {
    client.run(|| {
        let mut socket = TcpStream::connect_timeout(&address.into(), timeout)
            .with_context(|| format!("cannot connect to {address}"))?;
        socket.set_read_timeout(Some(timeout))?;
        socket.write_all(request.as_bytes())?;
        let mut text = String::new();
        socket.read_to_string(&mut text).with_context(|| format!("no answer from {address}"))?;
        Ok(text)
    })
}

fn parse(text: &str) -> Option<Reply> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let client = body.trim().rsplit(' ').next()?.parse().ok()?;
    Some(Reply { status, body: body.to_owned(), client })
}
