//! TCP to measure by: how long so many MiB, requests with their answers, or connections
//! with one of each take.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::{
    socket::{
        setsockopt,
        sockopt::{RcvBuf, ReceiveTimeout},
    },
    time::{TimeVal, TimeValLike as _},
};

use crate::Pod;

/// Where the server listens.
pub const PORT: u16 = 5201;
const TIMEOUT: Duration = Duration::from_secs(30);
const MEBIBYTE: usize = 1 << 20;
/// What the receiver has room for, bytes; the kernel takes twice as much. Left to grow, it is
/// another for each connection, and with it how much comes at a time: under a clock that
/// counts instructions the same 64 MiB took from 179 to 242 ms, with this 220 to 223.
const WINDOW: usize = 128 << 10;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its name in tables.
    pub name: &'static str,
    /// What the client does so many times.
    client: fn(&mut Client, u32) -> Result<()>,
    server: fn(&TcpListener, u32) -> Result<()>,
}

/// MiB after MiB by one connection.
pub const BULK: Load = Load { name: "tcp_bulk", client: send_bulk, server: take_bulk };
/// A byte there and one back, again and again by one connection.
pub const REQUESTS: Load = Load { name: "tcp_rr", client: ask, server: answer };
/// The same, each by a connection of its own.
pub const CONNECTIONS: Load =
    Load { name: "tcp_crr", client: connect_and_ask, server: accept_and_answer };

impl Load {
    /// How long `measured` of them took, after as many as `before`; `begin` and `end` are
    /// called right before and after those that are measured.
    ///
    /// # Errors
    /// If they do not get through.
    pub fn run(
        &self,
        pods: (&Pod, &Pod),
        counts: (u32, u32),
        begin: impl FnOnce() + Send,
        end: impl FnOnce() + Send,
    ) -> Result<Duration> {
        self.run_by(SocketAddrV4::new(pods.1.ip, PORT), pods, counts, begin, end)
    }

    /// As [`Load::run`], where the client knows the other pod by this address: a Service's.
    ///
    /// # Errors
    /// If they do not get through.
    pub fn run_by(
        &self,
        address: SocketAddrV4,
        (from, to): (&Pod, &Pod),
        (before, measured): (u32, u32),
        begin: impl FnOnce() + Send,
        end: impl FnOnce() + Send,
    ) -> Result<Duration> {
        let listener = to.netns.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        // A client that cannot connect is told of, and not waited for.
        let seconds = TimeVal::seconds(TIMEOUT.as_secs().try_into()?);
        setsockopt(&listener, ReceiveTimeout, &seconds)?;
        setsockopt(&listener, RcvBuf, &WINDOW)?;
        let took: Result<Duration> = thread::scope(|scope| {
            let server = scope.spawn(|| (self.server)(&listener, before + measured));
            let took = from.netns.run(|| {
                let mut client = Client { to: address, connection: None };
                (self.client)(&mut client, before)?;
                begin();
                let began = Instant::now();
                (self.client)(&mut client, measured)?;
                let took = began.elapsed();
                end();
                Ok(took)
            })?;
            server.join().map_err(|_| anyhow!("the server panicked"))?.context("server")?;
            Ok(took)
        });
        took.context(self.name)
    }
}

struct Client {
    to: SocketAddrV4,
    connection: Option<TcpStream>,
}

impl Client {
    fn connection(&mut self) -> Result<&mut TcpStream> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        self.connection.as_mut().context("it was just made")
    }

    fn connect(&self) -> Result<TcpStream> {
        let connection = TcpStream::connect_timeout(&self.to.into(), TIMEOUT)?;
        ready(connection)
    }
}

fn ready(connection: TcpStream) -> Result<TcpStream> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    Ok(connection)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    ready(listener.accept()?.0)
}

/// Each MiB is confirmed only at the end of all of them.
fn send_bulk(client: &mut Client, mebibytes: u32) -> Result<()> {
    let connection = client.connection()?;
    let (chunk, mut done) = (vec![0_u8; MEBIBYTE], [0]);
    connection.write_all(&mebibytes.to_ne_bytes())?;
    for _ in 0..mebibytes {
        connection.write_all(&chunk)?;
    }
    Ok(connection.read_exact(&mut done)?)
}

fn take_bulk(listener: &TcpListener, mebibytes: u32) -> Result<()> {
    let (mut connection, mut chunk) = (accept(listener)?, vec![0_u8; MEBIBYTE]);
    let mut left = mebibytes;
    while left > 0 {
        let mut now = [0; 4];
        connection.read_exact(&mut now)?;
        let now = u32::from_ne_bytes(now);
        for _ in 0..now {
            connection.read_exact(&mut chunk)?;
        }
        connection.write_all(&[1])?;
        left -= now;
    }
    Ok(())
}

fn ask(client: &mut Client, times: u32) -> Result<()> {
    let connection = client.connection()?;
    (0..times).try_for_each(|_| {
        connection.write_all(&[1])?;
        Ok(connection.read_exact(&mut [0])?)
    })
}

fn answer(listener: &TcpListener, times: u32) -> Result<()> {
    let mut connection = accept(listener)?;
    (0..times).try_for_each(|_| answer_one(&mut connection))
}

fn answer_one(connection: &mut TcpStream) -> Result<()> {
    connection.read_exact(&mut [0])?;
    Ok(connection.write_all(&[1])?)
}

fn connect_and_ask(client: &mut Client, times: u32) -> Result<()> {
    (0..times).try_for_each(|_| {
        let mut connection = client.connect()?;
        connection.write_all(&[1])?;
        Ok(connection.read_exact(&mut [0])?)
    })
}

fn accept_and_answer(listener: &TcpListener, times: u32) -> Result<()> {
    (0..times).try_for_each(|_| answer_one(&mut accept(listener)?))
}
