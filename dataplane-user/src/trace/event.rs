//! One event of a trace, as people and programs read it.

use std::net::Ipv4Addr;

use dataplane_common::{
    IfIndex, Program, Reason, Verdict,
    ipv4::{PROTOCOL_TCP, PROTOCOL_UDP},
    trace::{Event, Identity, KERNEL},
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::names::Names;
use crate::{protocol, schema};

/// What made something of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A program of ours, and the reason that it counted.
    Hook(Program, Reason),
    /// The kernel, which dropped it: `enum skb_drop_reason`, and the address of the instruction.
    Kernel(u32, u64),
}

impl Place {
    /// Returns the place of an event; `None` if it is none of this version's.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        if event.hook == KERNEL {
            return Some(Self::Kernel(event.reason, event.location));
        }
        let program = Program::ALL.get(event.hook as usize)?;
        Some(Self::Hook(*program, *Reason::ALL.get(event.reason as usize)?))
    }
}

/// What is printed of an event.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Line {
    /// When the program, or the kernel, had the packet; UTC.
    pub time: Timestamp,
    /// The same number is the same packet at another hook. Before there is an `sk_buff` (`decap_xdp`), and
    /// where the kernel makes a copy, a packet gets another number.
    pub packet: u64,
    /// A program's name, or `kernel`.
    #[schemars(extend("enum" = schema::programs_and_kernel()))]
    pub hook: &'static str,
    /// The interface; `null` where it is not known.
    pub interface: Option<String>,
    /// What became of the packet.
    #[schemars(extend("enum" = schema::verdicts()))]
    pub verdict: &'static str,
    /// The reason's name as in `tunless counters list`, or the kernel's (`enum skb_drop_reason`).
    pub reason: String,
    /// What the reason means, or the kernel's function that dropped the packet.
    pub meaning: String,
    /// The inner packet's protocol: its name, or its number; `non-ipv4` for anything else.
    pub protocol: String,
    /// The inner packet's source.
    pub source: Ipv4Addr,
    /// Of TCP and UDP, in host byte order; `null` for other protocols.
    pub source_port: Option<u16>,
    /// The inner packet's destination.
    pub destination: Ipv4Addr,
    /// Of TCP and UDP, in host byte order; `null` for other protocols.
    pub destination_port: Option<u16>,
    /// Bytes of the frame as the program got it.
    pub bytes: u32,
}

impl Line {
    /// Describes an event. `packet` is the number to print, `interface` the name of its interface.
    #[must_use]
    pub fn of(
        event: &Event,
        place: Place,
        time: Timestamp,
        packet: u64,
        interface: Option<String>,
        names: &Names,
    ) -> Self {
        let Identity { source, destination, ports, protocol: number, .. } = event.identity;
        let [from, to] = ports_of(ports);
        let has_ports = [PROTOCOL_TCP, PROTOCOL_UDP].map(u16::from).contains(&number);
        let (hook, verdict, reason, meaning) = match place {
            Place::Hook(program, reason) => (
                program.as_str(),
                reason.verdict(),
                reason.as_str().to_owned(),
                reason.caption().to_owned(),
            ),
            Place::Kernel(reason, location) => (
                "kernel",
                Verdict::Dropped,
                names.drop_reason(reason),
                format!("dropped by the kernel in {}", names.function(location)),
            ),
        };
        Self {
            time,
            packet,
            hook,
            interface,
            verdict: verdict.as_str(),
            reason,
            meaning,
            protocol: protocol::name(number),
            source: source.into(),
            source_port: has_ports.then_some(from),
            destination: destination.into(),
            destination_port: has_ports.then_some(to),
            bytes: event.length,
        }
    }

    /// Returns it as one line for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let end = |address: Ipv4Addr, port: Option<u16>| match port {
            Some(port) => format!("{address}:{port}"),
            None => address.to_string(),
        };
        format!(
            "{} #{:<4} {:<11} {:<15} {:<9} {} {} > {}, {} bytes: {}: {}",
            self.time.strftime("%H:%M:%S%.6f"),
            self.packet,
            self.hook,
            self.interface.as_deref().unwrap_or("-"),
            self.verdict,
            self.protocol,
            end(self.source, self.source_port),
            end(self.destination, self.destination_port),
            self.bytes,
            self.reason,
            self.meaning,
        )
    }
}

/// The source's port and the destination's, as they lie in a packet.
const fn ports_of(ports: u32) -> [u16; 2] {
    let [a, b, c, d] = ports.to_ne_bytes();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

/// The interface of an event, if its number is one of this network namespace: the kernel may drop a packet
/// on an interface of a pod's.
#[must_use]
pub fn interface(event: &Event, place: Place) -> Option<IfIndex> {
    matches!(place, Place::Hook(..)).then_some(IfIndex(event.ifindex))
}

#[cfg(test)]
mod tests {
    use dataplane_common::Ipv4Be;

    use super::*;

    fn event(hook: u32, reason: u32, protocol: u16) -> Event {
        let address = |last| Ipv4Be::from(Ipv4Addr::new(10, 20, 0, last));
        let ports = u32::from_ne_bytes([0x10, 0x01, 0x00, 0x35]);
        let identity =
            Identity { source: address(1), destination: address(2), ports, id: 7, protocol };
        Event { hook, reason, length: 74, identity, ..Event::default() }
    }

    fn line(event: &Event) -> Line {
        let place = Place::of(event).unwrap();
        let names = Names::from_parts([(6, "NETFILTER_DROP".to_owned())].into(), Vec::new());
        Line::of(event, place, Timestamp::UNIX_EPOCH, 3, Some("cali1".to_owned()), &names)
    }

    #[test]
    fn an_event_of_a_program_is_one_line() {
        let event = event(Program::DecapTc as u32, Reason::DecapForgedSource as u32, 17);
        assert_eq!(
            line(&event).describe(),
            "00:00:00.000000 #3    decap_tc    cali1           dropped   udp 10.20.0.1:4097 > \
             10.20.0.2:53, 74 bytes: decap_forged_source: inner source belongs to another node \
             than the one that sent it"
        );
    }

    #[test]
    fn the_kernels_reason_has_its_name() {
        let dropped = line(&event(KERNEL, 6, 1));
        assert_eq!((dropped.hook, dropped.reason.as_str()), ("kernel", "NETFILTER_DROP"));
        assert_eq!((dropped.protocol.as_str(), dropped.source_port), ("icmp", None));
        assert_eq!(line(&event(KERNEL, 99, 1)).reason, "99");
    }

    /// Not every kernel lets a program be watched, so that not every machine can be asked for a trace.
    #[test]
    fn both_kinds_of_lines_have_their_schema() {
        let spoofed = line(&event(Program::DecapTc as u32, Reason::DecapForgedSource as u32, 17));
        let unknown = Line { interface: None, ..line(&event(KERNEL, 99, 1)) };
        for line in [spoofed, unknown] {
            let document = serde_json::to_value(line).unwrap();
            let faults = tunless_lab::schemas::faults("trace", &document);
            assert_eq!(faults, Vec::<String>::new(), "{document}");
        }
    }

    #[test]
    fn what_another_version_wrote_is_no_event() {
        assert_eq!(Place::of(&event(KERNEL + 1, 0, 17)), None);
        assert_eq!(Place::of(&event(0, Reason::COUNT as u32, 17)), None);
    }
}
