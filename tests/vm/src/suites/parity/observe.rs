//! Sends probes and gathers what comes out, by the probes' numbers.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tunless_lab::{
    Lab,
    addr::CALI_MAC,
    capture::{Capture, count},
    frame::{Direction, Frame},
    inject::Injector,
    packet::{IPV4, ethernet},
};

use super::{
    bytes, decap,
    probe::{Probe, Way},
};
use tunless_lab::packet::Ipv4;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
const ARP: u16 = 0x0806;

/// So many probes are under way at most: a veth holds 256 packets.
const AT_ONCE: usize = 32;
/// How long a packet may take to come out.
const PATIENCE: Duration = Duration::from_secs(10);
/// Numbers of [`Observer::mark`].
const MARKS: u16 = 40_000;

/// Where something came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// Of the node's NIC.
    Wire,
    /// Into the pod.
    Pod,
}

/// What came out: a whole frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// From the destination MAC on.
    pub bytes: Vec<u8>,
}

/// What came out for each number, first the wire's, then the pod's.
pub type Observed = BTreeMap<u16, Vec<Seen>>;

/// Two captures and two sockets.
pub struct Observer<'a> {
    lab: &'a Lab,
    wire: Capture,
    pod: Capture,
    to_wire: Injector,
    from_pod: Injector,
    marks: u16,
}

impl<'a> Observer<'a> {
    /// Sees everything from here on.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let (node, pod) = (&lab.node2, lab.perf());
        let wanted = |frame: &Frame| {
            frame.direction == Direction::In && bytes::field(&frame.bytes, 12) != Some(ARP)
        };
        Ok(Self {
            lab,
            wire: Capture::start_filtered(&lab.router, &node.router_port, wanted)?,
            pod: Capture::start_filtered(&pod.netns, "eth0", wanted)?,
            to_wire: Injector::new(&lab.router, &node.router_port)?,
            from_pod: Injector::new(&pod.netns, "eth0")?,
            marks: MARKS,
        })
    }

    /// Sends the probes, and waits until all that will come out of them has.
    pub fn send(&mut self, way: Way, probes: &[&Probe]) -> Result<()> {
        for some in probes.chunks(AT_ONCE) {
            for probe in some {
                for packet in &probe.packets {
                    self.inject(way, packet).with_context(|| probe.what.clone())?;
                }
            }
            // Behind all of them, on the same way.
            self.mark(way)
                .with_context(|| some.last().map(|probe| probe.what.clone()).unwrap_or_default())?;
        }
        Ok(())
    }

    /// A plain datagram, which must come out.
    pub fn mark(&mut self, way: Way) -> Result<()> {
        let tag = self.marks;
        self.marks += 1;
        let inner = way.datagram(&Ipv4 { id: tag, df: true, ..way.inner(17) }, 100);
        let (capture, packet) = match way {
            Way::Encap => (&self.wire, inner),
            Way::Decap => (&self.pod, decap::outer().packet(&inner)),
        };
        self.inject(way, &packet)?;
        if capture.wait_for(PATIENCE, |frame| tag_of(frame) == Some(tag)).is_none() {
            bail!("a plain datagram did not come out ({way:?})");
        }
        Ok(())
    }

    fn inject(&self, way: Way, packet: &[u8]) -> Result<()> {
        let (node, pod) = (&self.lab.node2, self.lab.perf());
        match way {
            Way::Encap => self.from_pod.send(&ethernet(CALI_MAC, pod.mac, IPV4, packet)),
            Way::Decap => self.to_wire.send(&ethernet(node.mac, node.gateway_mac, IPV4, packet)),
        }
    }

    /// Ends the captures. An error if something came out that nobody sent.
    pub fn finish(self) -> Result<Observed> {
        let mut observed = Observed::new();
        for (place, capture) in [(Place::Wire, self.wire), (Place::Pod, self.pod)] {
            for frame in capture.stop()? {
                let tag = tag_of(&frame);
                let tag = tag.with_context(|| format!("at the {place:?} came {frame}"))?;
                ensure!(tag != 0, "at the {place:?} came, of no probe, {frame}");
                observed.entry(tag).or_default().push(Seen { place, bytes: frame.bytes });
            }
        }
        observed.retain(|tag, _| *tag < MARKS);
        Ok(observed)
    }
}

/// The number of the probe that a frame is of: the ID of the innermost header,
/// which an error quotes.
fn tag_of(frame: &Frame) -> Option<u16> {
    let mut packet = frame.bytes.get(ETHERNET..)?;
    while let Some(inside) = bytes::carried(packet).or_else(|| bytes::quoted(packet)) {
        if bytes::id(inside).is_none() {
            break;
        }
        packet = inside;
    }
    bytes::id(packet)
}

/// How many frames a capture on tunl0 saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunl0Capture {
    /// From the wire.
    pub incoming: usize,
    /// To the wire.
    pub outgoing: usize,
}

impl Tunl0Capture {
    /// Ends a capture.
    pub fn of(capture: Capture) -> Result<Self> {
        let frames = capture.stop()?;
        let of = |direction| count(&frames, direction, |_| true);
        Ok(Self { incoming: of(Direction::In), outgoing: of(Direction::Out) })
    }
}
