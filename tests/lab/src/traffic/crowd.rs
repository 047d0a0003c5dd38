//! Very many short conversations.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::SockRef;

use super::{TIMEOUT, bind, udp};
use crate::netns::Netns;

const TICK: Duration = Duration::from_millis(20);
/// Datagrams of one socket that wait for an answer.
const AT_A_TIME: usize = 25;
/// Threads of the client: one would mostly wait.
const CLIENTS: usize = 4;

/// Makes `count` TCP connections, each with one request and one answer, closed
/// by the server. The first that fails is the error.
pub fn connections(
    client: &Netns,
    address: SocketAddrV4,
    server: &Netns,
    port: u16,
    count: usize,
) -> Result<()> {
    let listener = server.run(|| {
        bind(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .with_context(|| format!("cannot listen on TCP port {port}"))
    })?;
    SockRef::from(&listener).set_read_timeout(Some(TICK))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Ok((mut socket, _)) = listener.accept() {
                    // It inherits the listener's, which a busy machine exceeds.
                    socket.set_read_timeout(Some(TIMEOUT))?;
                    let mut request = [0; 8];
                    socket.read_exact(&mut request).context("a request")?;
                    socket.write_all(&request).context("an answer")?;
                }
            }
            anyhow::Ok(())
        });
        let ask = |number: usize| -> Result<()> {
            let request = (number as u64).to_be_bytes();
            let mut socket = TcpStream::connect_timeout(&address.into(), TIMEOUT)?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.write_all(&request)?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer)?;
            ensure!(answer == request, "{answer:?}, not {request:?}");
            Ok(())
        };
        let result = share(client, 0..count, |number| {
            ask(number).with_context(|| format!("connection {number} of {count}"))
        });
        done.store(true, Ordering::Relaxed);
        let server = server.join().map_err(|_| anyhow!("the server panicked"))?;
        result.and(server)
    })
}

/// From each of `client_ports` sends `rounds` datagrams to each of `server_ports`,
/// a few at a time, and more only after the servers have answered those: queues are
/// finite. An answer that does not come is an error.
pub fn datagrams(
    (client, client_ports): (&Netns, Range<u16>),
    (server, address, server_ports): (&Netns, Ipv4Addr, Range<u16>),
    rounds: usize,
) -> Result<()> {
    let servers: Vec<UdpSocket> =
        server_ports.clone().map(|port| udp::bind(server, port, TICK)).collect::<Result<_>>()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for socket in &servers {
            let done = &done;
            scope.spawn(move || {
                let mut buffer = [0; 64];
                while !done.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..len], from);
                    }
                }
            });
        }
        let result = share(client, client_ports.clone(), |port| {
            let socket = bind(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            let ports: Vec<u16> = server_ports.clone().collect();
            for round in 0..rounds {
                for ports in ports.chunks(AT_A_TIME) {
                    for to in ports {
                        socket.send_to(&[7; 16], (address, *to))?;
                    }
                    for answer in 0..ports.len() {
                        let missing = ports.len() - answer;
                        socket.recv(&mut [0; 64]).with_context(|| {
                            format!(
                                "port {port}, round {round}: {missing} answers of {ports:?} are missing"
                            )
                        })?;
                    }
                }
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Does all of the work in a few threads of a namespace; the first error ends it.
fn share<T: Send>(
    netns: &Netns,
    work: impl Iterator<Item = T> + Send,
    each: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let work = std::sync::Mutex::new(work);
    let next = || work.lock().ok()?.next();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    netns.enter()?;
                    while let Some(item) = next() {
                        each(item)?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Result<()>>| {
            worker.join().map_err(|_| anyhow!("a client panicked"))?
        };
        workers.into_iter().map(join).collect::<Vec<_>>().into_iter().collect()
    })
}
