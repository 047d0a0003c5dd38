//! What went over an interface?
//!
//! To see the *wire*, capture on the router's port toward a node
//! ([`crate::Node::router_port`]): on the node's own `eth0` XDP has unwrapped
//! a packet before any packet socket sees it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    frame::{Direction, Frame},
    netns::Netns,
    packet_socket::{PacketSocket, Received},
    topology::Node,
};

const TICK: Duration = Duration::from_millis(20);
/// Longer than any frame, super-packets included.
const BUFFER: usize = 1 << 20;

/// A capture under way; it sees every frame since [`Capture::start`] returned.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Captures all frames on an interface of a namespace.
    pub fn start(netns: &Netns, interface: &str) -> Result<Self> {
        Self::start_filtered(netns, interface, |_| true)
    }

    /// Captures the wire to and from a node, at the router's end.
    pub fn wire(router: &Netns, node: &Node) -> Result<Self> {
        Self::start(router, &node.router_port)
    }

    /// Captures the frames for which `wanted` says yes.
    pub fn start_filtered(
        netns: &Netns,
        interface: &str,
        wanted: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        // Bound here, not in the thread: nothing is missed from here on.
        let socket = PacketSocket::receiver(netns, interface, TICK)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while !stopped.load(Ordering::Relaxed) {
                take(&socket, &mut buffer, &wanted, &kept)?;
            }
            // What is queued already counts.
            socket.stop_waiting()?;
            while take(&socket, &mut buffer, &wanted, &kept)? {}
            match socket.dropped()? {
                0 => Ok(()),
                count => Err(anyhow!("{count} frames came too fast to be captured")),
            }
        });
        Ok(Self { frames, stop, thread: Some(thread) })
    }

    /// The frames so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a frame for which `wanted` says yes.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let end = Instant::now() + timeout;
        let mut looked_at = 0;
        loop {
            {
                let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(found) = frames[looked_at..].iter().find(|frame| wanted(frame)) {
                    return Some(found.clone());
                }
                looked_at = frames.len();
            }
            if Instant::now() > end {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the capture, after what is queued was read. An error when frames
    /// were missed: then "none was seen" would prove nothing.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped already")?;
        let result = thread.join().map_err(|_| anyhow!("the capture panicked"))?;
        result?;
        Ok(self.frames())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes one frame; whether there was one.
fn take(
    socket: &PacketSocket,
    buffer: &mut [u8],
    wanted: impl Fn(&Frame) -> bool,
    kept: &Mutex<Vec<Frame>>,
) -> Result<bool> {
    let Some(Received { length, direction, vlan }) = socket.receive(buffer)? else {
        return Ok(false);
    };
    ensure!(length < BUFFER, "a frame filled the whole buffer");
    let frame = Frame { direction, vlan, bytes: buffer[..length].to_vec() };
    if wanted(&frame) {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
    }
    Ok(true)
}

/// How many frames went `direction` for which `wanted` says yes.
#[must_use]
pub fn count(frames: &[Frame], direction: Direction, wanted: impl Fn(&Frame) -> bool) -> usize {
    frames.iter().filter(|frame| frame.direction == direction && wanted(frame)).count()
}
