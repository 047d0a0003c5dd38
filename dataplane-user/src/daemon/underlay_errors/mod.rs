//! What the underlay says about our outer packets, by ICMP.
//!
//! - "Fragmentation needed": the kernel has lowered the path MTU to that node
//!   ([`elsewhere`](super::observe::elsewhere) is why it cares), but announces it to no process. The
//!   daemon asks it again at once, and believes the kernel's number down to that of the message
//!   ([`path_mtu`](super::observe::path_mtu)); the kernel forgets it after
//!   `net.ipv4.route.mtu_expires`.
//! - "There is no getting there": the pod whose packet it was is told, as RFC
//!   2003 §4 demands ([`relay`]), not too often ([`limit`]).
//!
//! Anybody can write such messages. One about a node we do not know, or an inner
//! packet that we would not have sent there, changes nothing.

mod limit;
mod relay;
mod scope;
mod socket;

use std::{
    collections::BTreeMap,
    future::pending,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dataplane_common::Mtu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use self::{
    limit::Limit,
    relay::{Consequence, judge, reported},
    socket::IcmpSocket,
};

pub use self::scope::Scope;
use super::report::unix_now;

/// At most so many messages are read at a time …
const BATCH: usize = 64;
/// … before the daemon has time for other things. Under a flood the kernel
/// throws away what does not fit the socket's buffer.
const PAUSE: Duration = Duration::from_millis(10);
/// How many nodes may wait for the daemon to ask about them. What is too much
/// comes again, with the next packet that does not fit.
const WAITING: usize = 64;

/// The daemon's end.
pub struct UnderlayErrors {
    narrowed: mpsc::Receiver<(Ipv4Addr, Mtu)>,
    latest: watch::Receiver<LatestErrors>,
    is_deaf: bool,
}

/// The latest error about packets to each node.
pub type LatestErrors = BTreeMap<Ipv4Addr, HeardError>;

/// An error of the underlay that was heard.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
pub struct HeardError {
    /// Who reported it.
    pub from: Ipv4Addr,
    /// What, for people.
    pub what: String,
    /// When, Unix seconds.
    pub at: u64,
    /// How many there were about this node since the daemon started.
    #[serde(default)]
    pub count: u64,
}

impl UnderlayErrors {
    /// Listens from now on, and judges by what `scope` holds at the time.
    pub fn listen(scope: watch::Receiver<Scope>) -> Self {
        let (sender, narrowed) = mpsc::channel(WAITING);
        let (errors, latest) = watch::channel(LatestErrors::new());
        let socket = IcmpSocket::open().inspect_err(|error| {
            tracing::warn!(
                "no raw socket for ICMP, so pods hear of no errors of the underlay, and path MTUs are \
                 found every 10 s only, and not checked: {error}"
            );
        });
        let is_deaf = socket.is_err();
        if let Ok(socket) = socket {
            drop(tokio::spawn(serve(socket, scope, sender, errors)));
        }
        Self { narrowed, latest, is_deaf }
    }

    /// Returns whether no message is heard.
    pub fn are_unheard(&self) -> bool {
        self.is_deaf
    }

    /// The latest error about each node.
    pub fn latest(&self) -> watch::Receiver<LatestErrors> {
        self.latest.clone()
    }

    /// Waits for a node the path to which takes no more than so much.
    pub async fn narrowed(&mut self) -> (Ipv4Addr, Mtu) {
        match self.narrowed.recv().await {
            Some(path) => path,
            None => pending().await,
        }
    }
}

async fn serve(
    socket: IcmpSocket,
    scope: watch::Receiver<Scope>,
    narrowed: mpsc::Sender<(Ipv4Addr, Mtu)>,
    errors: watch::Sender<LatestErrors>,
) {
    let mut limit = Limit::default();
    // No packet is longer, and a checksum is over the whole of it.
    let mut buffer = vec![0; 1 << 16];
    loop {
        for _ in 0..BATCH {
            let length = match socket.receive(&mut buffer).await {
                Ok(length) => length,
                Err(error) => {
                    tracing::debug!("reading ICMP: {error}");
                    break;
                }
            };
            let consequence = judge(&buffer[..length], &scope.borrow());
            match consequence {
                Ok(Consequence::AskAgain { node, mtu }) => {
                    errors.send_modify(|latest| {
                        note(latest, node, &buffer[..length], &scope.borrow());
                    });
                    let _ = narrowed.try_send((node, mtu));
                }
                Ok(Consequence::Tell { node, to, message }) => {
                    errors.send_modify(|latest| {
                        note(latest, node, &buffer[..length], &scope.borrow());
                    });
                    if !limit.allows(to, Instant::now()) {
                        tracing::debug!("an error for {to} is not relayed: too many");
                    } else if let Err(error) = socket.send(&message, to) {
                        tracing::debug!("an error for {to} is not relayed: {error}");
                    }
                }
                Err(why) => tracing::debug!("an ICMP error is not relayed: {why}"),
            }
        }
        sleep(PAUSE).await;
    }
}

/// Keeps an error; those about nodes that are gone are forgotten with the first one about another node,
/// not with each: a router, or one who plays it, may send thousands a second.
fn note(latest: &mut LatestErrors, node: Ipv4Addr, packet: &[u8], scope: &Scope) {
    let Some((from, what)) = reported(packet) else { return };
    if !latest.contains_key(&node) {
        latest.retain(|node, _| scope.knows(*node));
    }
    let count = latest.get(&node).map_or(0, |known| known.count) + 1;
    latest.insert(node, HeardError { from, what: what.to_owned(), at: unix_now(), count });
}
