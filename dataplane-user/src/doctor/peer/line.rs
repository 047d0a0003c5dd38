//! A conversation with a peer: what was asked, and what came back.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{
    packet::{self, Ends, Error, Heard, Kind},
    sockets::Sockets,
};

/// How often a request is repeated that gets no answer.
pub const TRIES: usize = 3;
/// No packet is longer.
const LONGEST: usize = 1 << 16;

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shot {
    /// Which.
    pub kind: Kind,
    /// Its length from the first IP header on, bytes.
    pub size: u16,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// From the request to its answer.
    pub round_trip: Option<Duration>,
    /// An answer came that still had its outer header.
    pub is_wrapped: bool,
}

/// What came of some requests.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outcomes {
    /// In the order of the requests.
    pub each: Vec<Outcome>,
    /// Errors heard meanwhile, about any request so far.
    pub errors: Vec<Error>,
    /// Why this host itself did not send the last request that it did not send.
    pub unsent: Option<String>,
}

impl Outcomes {
    /// The shortest round trip; `None` if there was no answer.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.each.iter().filter_map(|outcome| outcome.round_trip).min()
    }

    /// Whether answers came, and all still had their outer header.
    #[must_use]
    pub fn is_wrapped(&self) -> bool {
        self.round_trip().is_none() && self.each.iter().any(|outcome| outcome.is_wrapped)
    }
}

/// The line to a peer.
pub struct Line {
    sockets: Sockets,
    ends: Ends,
    pod: Option<Ipv4Addr>,
    /// The identifier of all requests.
    id: u16,
    next: u16,
    /// Of all requests so far: an error may come late.
    asked: BTreeSet<u16>,
    buffers: [Vec<u8>; 2],
}

impl Line {
    /// Opens it. `pod`: another address that answers.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn open(ends: Ends, pod: Option<Ipv4Addr>) -> io::Result<Self> {
        let from: Vec<Ipv4Addr> = [ends.peer].into_iter().chain(pod).collect();
        let sockets = Sockets::open(&from)?;
        let (id, next) = (fastrand::u16(..), fastrand::u16(1..0x8000));
        Ok(Self {
            sockets,
            ends,
            pod,
            id,
            next,
            asked: BTreeSet::new(),
            buffers: [vec![0; LONGEST], vec![0; LONGEST]],
        })
    }

    /// Sends requests, and again those that get no answer within `wait`, [`TRIES`] times in all.
    pub async fn ask(&mut self, shots: &[Shot], wait: Duration) -> Outcomes {
        let mut outcomes =
            Outcomes { each: vec![Outcome::default(); shots.len()], ..Outcomes::default() };
        let mut sent = BTreeMap::new();
        for _ in 0..TRIES {
            for (place, shot) in shots.iter().enumerate() {
                if outcomes.each[place].round_trip.is_some() {
                    continue;
                }
                match self.send(*shot) {
                    Ok(sequence) => drop(sent.insert(sequence, (place, Instant::now()))),
                    Err(error) => outcomes.unsent = Some(error.to_string()),
                }
            }
            let deadline = Instant::now() + wait;
            while outcomes.each.iter().any(|outcome| outcome.round_trip.is_none()) {
                let Some(heard) = self.hear(deadline).await else { break };
                note(heard, &sent, &mut outcomes);
            }
            let is_answered = outcomes.each.iter().all(|outcome| outcome.round_trip.is_some());
            if is_answered || sent.is_empty() {
                break;
            }
        }
        outcomes
    }

    /// Sends one request, and returns its sequence number.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn send(&mut self, Shot { kind, size }: Shot) -> io::Result<u16> {
        let sequence = self.next;
        // Never 0: that the kernel would replace.
        self.next = self.next.checked_add(1).unwrap_or(1);
        let packet = packet::build(self.ends, kind, size, self.id, sequence);
        let to = match kind {
            Kind::Pod(pod) => pod,
            _ => self.ends.peer,
        };
        self.sockets.send(&packet, to)?;
        self.asked.insert(sequence);
        Ok(sequence)
    }

    /// The next answer to a request of ours, or error about one; `None` at the deadline.
    pub async fn hear(&mut self, deadline: Instant) -> Option<Heard> {
        loop {
            let received =
                timeout_at(deadline, self.sockets.receive(&mut self.buffers)).await.ok()?;
            let heard = received.ok().and_then(packet::read);
            if let Some(heard) = heard.filter(|heard| self.is_ours(heard)) {
                return Some(heard);
            }
            if Instant::now() >= deadline {
                return None;
            }
        }
    }

    /// Whether it is about a request of ours.
    fn is_ours(&self, heard: &Heard) -> bool {
        match heard {
            Heard::Reply { id, sequence, .. } => *id == self.id && self.asked.contains(sequence),
            Heard::Error(error) => {
                (error.destination == self.ends.peer || Some(error.destination) == self.pod)
                    && self.asked.contains(&error.identification)
            }
        }
    }
}

/// Notes what was heard. `sent`: the requests of these outcomes, by sequence number, and when each was sent.
fn note(heard: Heard, sent: &BTreeMap<u16, (usize, Instant)>, outcomes: &mut Outcomes) {
    match heard {
        Heard::Reply { sequence, is_wrapped, .. } => {
            let Some((place, at)) = sent.get(&sequence) else { return };
            let outcome = &mut outcomes.each[*place];
            if is_wrapped {
                outcome.is_wrapped = true;
            } else {
                outcome.round_trip.get_or_insert(at.elapsed());
            }
        }
        Heard::Error(error) if outcomes.errors.contains(&error) => {}
        Heard::Error(error) => outcomes.errors.push(error),
    }
}
