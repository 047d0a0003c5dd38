//! A program that takes packets from an NFQUEUE, and lets each go on after a while.
//!
//! By nfnetlink (`linux/netfilter/nfnetlink_queue.h`): a message is `struct nlmsghdr`, `struct nfgenmsg`
//! and attributes.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::libc;
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// `NFNL_SUBSYS_QUEUE`, in the upper byte of a message's type; its messages.
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
/// `NFQA_CFG_CMD` with `NFQNL_CFG_CMD_BIND`, and `NFQA_CFG_PARAMS` with `NFQNL_COPY_META`.
const COMMAND: u16 = 1;
const BIND: u8 = 1;
const PARAMETERS: u16 = 2;
const COPY_META: u8 = 1;
/// `NFQA_PACKET_HDR`, `NFQA_VERDICT_HDR`.
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
/// Bytes of `struct nlmsghdr` with `struct nfgenmsg`, and of an attribute's header.
const HEADERS: usize = 16 + 4;
const ATTRIBUTE: usize = 4;
/// How long a packet that may go on can wait for the thread.
const TICK: Duration = Duration::from_millis(10);

/// Holds packets; dropped, it takes no more, and the kernel drops those that wait.
#[derive(Debug)]
pub struct Queue {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Queue {
    /// Takes packets from the queue `number` of a namespace, and lets each go on after `delay`.
    pub fn hold(netns: &Netns, number: u16, delay: Duration) -> Result<Self> {
        let socket = netns.run(open)?;
        send(&socket, CONFIG, number, COMMAND, &[BIND, 0, 0, 0])?;
        send(&socket, CONFIG, number, PARAMETERS, &[0, 0, 0, 0, COPY_META])?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            let mut waiting = VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(id) = receive(&socket)? {
                    waiting.push_back((Instant::now() + delay, id));
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                while let Some((_, id)) = waiting.pop_front_if(|(due, _)| *due <= Instant::now()) {
                    let accept = (libc::NF_ACCEPT as u32).to_be_bytes();
                    send(&socket, VERDICT, number, VERDICT_HEADER, &[accept, id].concat())?;
                }
            }
            Ok(())
        });
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// Returns how many packets have come.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the queue failed: {error:#}");
        }
    }
}

fn open() -> Result<Socket> {
    let (domain, protocol) = (Domain::from(libc::AF_NETLINK), libc::NETLINK_NETFILTER.into());
    let socket = Socket::new(domain, Type::RAW, Some(protocol));
    let socket = socket.context("no netlink socket is to be had")?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// Sends a message with one attribute about a queue.
fn send(mut socket: &Socket, kind: u16, queue: u16, attribute: u16, value: &[u8]) -> Result<()> {
    const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
    let length = ATTRIBUTE + value.len();
    let mut message = Vec::new();
    message.extend_from_slice(&((HEADERS + length.next_multiple_of(4)) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    // Family and version; the resource is the queue.
    message.extend_from_slice(&[libc::AF_UNSPEC as u8, 0]);
    message.extend_from_slice(&queue.to_be_bytes());
    message.extend_from_slice(&(length as u16).to_ne_bytes());
    message.extend_from_slice(&attribute.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
    socket.write_all(&message).context("the kernel takes no message about a queue")
}

/// Returns the next packet's number as the kernel writes it, if one comes within a tick.
fn receive(mut socket: &Socket) -> Result<Option<[u8; 4]>> {
    let mut buffer = [0; 1 << 12];
    match socket.read(&mut buffer) {
        Ok(length) => Ok(packet(&buffer[..length])),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error).context("reading from the queue"),
    }
}

/// The number of the packet that a message announces.
fn packet(message: &[u8]) -> Option<[u8; 4]> {
    let half = |at: usize| Some(u16::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    if half(4)? != PACKET {
        return None;
    }
    let mut at = HEADERS;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == PACKET_HEADER {
            return message.get(at + ATTRIBUTE..)?.first_chunk().copied();
        }
        at += length.max(ATTRIBUTE).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_announced_by_its_number() {
        let mut message = vec![0; HEADERS];
        message[4..6].copy_from_slice(&PACKET.to_ne_bytes());
        // A mark before it, as the kernel may put others.
        for (kind, value) in [(3_u16, [9, 9, 9, 9]), (PACKET_HEADER, [0, 0, 1, 2])] {
            message.extend_from_slice(&8_u16.to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(&value);
        }
        assert_eq!(packet(&message), Some([0, 0, 1, 2]));
        assert_eq!(packet(&message[..HEADERS + 8]), None);
        message[4..6].copy_from_slice(&VERDICT.to_ne_bytes());
        assert_eq!(packet(&message), None);
        assert_eq!(packet(&[]), None);
    }
}
