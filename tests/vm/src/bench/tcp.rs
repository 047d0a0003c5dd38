//! TCP from pod to pod: how long a MiB, a request with its answer, and a connection
//! with one of each takes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};
use tunless_lab::Pod;
use tunless_profiler::mark;

use super::stage::{SETTLE, Stage};
use crate::figures::{Figure, Figures};

const PORT: u16 = 5201;
const TIMEOUT: Duration = Duration::from_secs(30);
const MEBIBYTE: usize = 1 << 20;

/// One kind of load.
struct Load {
    name: &'static str,
    /// How many before the clock runs, and while it does.
    counts: (u32, u32),
    /// What the client does so many times.
    client: fn(&mut Client, u32) -> Result<()>,
    server: fn(&TcpListener, u32) -> Result<()>,
}

const BULK: Load = Load { name: "tcp_bulk", counts: (4, 64), client: send_bulk, server: take_bulk };
const LOADS: [Load; 3] = [
    BULK,
    Load { name: "tcp_rr", counts: (200, 2000), client: ask, server: answer },
    Load { name: "tcp_crr", counts: (50, 500), client: connect_and_ask, server: accept_and_answer },
];

/// All loads.
pub fn measure(stage: &Stage, figures: &Figures) -> Result<()> {
    for load in &LOADS {
        let took = load.run(stage, || {}, || {})?;
        figures.note(Figure {
            load: load.name.into(),
            endpoints: stage.endpoints,
            flows: 1,
            routes: None,
            nanoseconds: took.as_secs_f64() * 1e9 / f64::from(load.counts.1),
            programs: Vec::new(),
        });
    }
    Ok(())
}

/// Bulk, between two marks for the profiler; how many MiB.
pub fn profile(stage: &Stage) -> Result<u64> {
    BULK.run(stage, mark::start, mark::stop)?;
    Ok(BULK.counts.1.into())
}

impl Load {
    /// How long all of it took; `start` and `stop` are called right before and after.
    fn run(&self, stage: &Stage, start: fn(), stop: fn()) -> Result<Duration> {
        let took = self.between(stage.lab.perf(), stage.lab.sit(), start, stop);
        took.with_context(|| format!("{} by {}", self.name, stage.path.name))
    }

    fn between(&self, from: &Pod, to: &Pod, start: fn(), stop: fn()) -> Result<Duration> {
        let (before, measured) = self.counts;
        let listener = to.netns.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        // A client that cannot connect is told of, and not waited for.
        let seconds = TimeVal::seconds(TIMEOUT.as_secs().try_into()?);
        setsockopt(&listener, ReceiveTimeout, &seconds)?;
        thread::scope(|scope| {
            let server = scope.spawn(|| (self.server)(&listener, before + measured));
            let took = from.netns.run(|| {
                let mut client = Client { to: SocketAddrV4::new(to.ip, PORT), connection: None };
                (self.client)(&mut client, before)?;
                thread::sleep(SETTLE);
                start();
                let began = Instant::now();
                (self.client)(&mut client, measured)?;
                let took = began.elapsed();
                stop();
                Ok(took)
            })?;
            server.join().map_err(|_| anyhow!("the server panicked"))?.context("server")?;
            Ok(took)
        })
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
