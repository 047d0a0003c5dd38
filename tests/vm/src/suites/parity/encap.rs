//! What the pod sends.

use tunless_lab::packet::Ipv4;

use super::probe::{MTU, POD_MTU, Probe, Probes, THIRD_POD, Way, inner_probes, pattern};

const WAY: Way = Way::Encap;

/// Everything, numbered from `first` on.
pub fn probes(first: u16) -> Vec<Probe> {
    let mut probes = Probes::new(WAY, first);
    inner_probes(WAY, &mut probes, &|inner| inner);
    lengths(&mut probes);
    lies(&mut probes);
    addresses(&mut probes);
    probes.finish()
}

fn ip(tag: u16) -> Ipv4 {
    Ipv4 { id: tag, df: true, ..WAY.inner(17) }
}

/// More than fits: the kernel says so, or fragments.
fn lengths(probes: &mut Probes) {
    for length in MTU + 1..=POD_MTU {
        for df in [true, false] {
            probes.add(format!("{length} bytes, df {df}: too many"), |tag| {
                WAY.datagram(&Ipv4 { df, ..ip(tag) }, length)
            });
        }
    }
    let options = vec![1; 8];
    for df in [true, false] {
        probes.add(format!("options in too many bytes, df {df}"), |tag| {
            WAY.datagram(&Ipv4 { df, options: options.clone(), ..ip(tag) }, MTU + 10)
        });
        probes.add(format!("too many bytes and ttl 1, df {df}"), |tag| {
            WAY.datagram(&Ipv4 { df, ttl: 1, ..ip(tag) }, MTU + 1)
        });
    }
}

/// Headers that cannot be.
fn lies(probes: &mut Probes) {
    probes.add("ttl 0", |tag| WAY.datagram(&Ipv4 { ttl: 0, ..ip(tag) }, 100));
    probes.add("a wrong header checksum", |tag| {
        WAY.datagram(&Ipv4 { checksum: Some(0x1234), ..ip(tag) }, 100)
    });
    for version in [0, 3, 5, 6, 15] {
        probes.add(format!("version {version}"), |tag| {
            WAY.datagram(&Ipv4 { version: Some(version), ..ip(tag) }, 100)
        });
    }
    for ihl in (0..5).chain([6, 15]) {
        probes.add(format!("header length {ihl}"), |tag| {
            WAY.datagram(&Ipv4 { ihl: Some(ihl), ..ip(tag) }, 100)
        });
    }
    for length in [0, 19, 101, 1480, 65535] {
        probes.add(format!("says {length} bytes, not 100"), |tag| {
            WAY.datagram(&Ipv4 { total_len: Some(length), ..ip(tag) }, 100)
        });
    }
    for length in [20, 28, 46, 99] {
        probes.add(format!("says {length} bytes, the rest of 100 is padding"), |tag| {
            WAY.datagram(&Ipv4 { total_len: Some(length), ..ip(tag) }, 100)
        });
    }
    for length in [19, 24, 60] {
        probes.add(format!("cut to {length} of 100 bytes"), |tag| {
            let mut packet = WAY.datagram(&ip(tag), 100);
            packet.truncate(length);
            packet
        });
    }
}

fn addresses(probes: &mut Probes) {
    let to = |tag, destination: [u8; 4]| Ipv4 { destination: destination.into(), ..ip(tag) };
    let from = |tag, source: [u8; 4]| Ipv4 { source: source.into(), ..ip(tag) };
    for (what, address) in [
        ("the other node's tunnel address", [10, 20, 42, 0]),
        ("nobody's address", [10, 20, 42, 60]),
        ("no route of the tunnel", [10, 99, 0, 1]),
        ("the other node", [172, 16, 35, 4]),
        ("a broadcast", [255, 255, 255, 255]),
        ("a group", [224, 0, 0, 9]),
        ("no host", [240, 0, 0, 1]),
        ("loopback", [127, 0, 0, 1]),
        ("zero", [0, 0, 0, 0]),
    ] {
        probes.add(format!("to {what}"), |tag| WAY.datagram(&to(tag, address), 100));
    }
    for (what, address) in [
        ("another pod of this node", [10, 20, 105, 220]),
        ("this node's tunnel address", [10, 20, 105, 192]),
        ("this node", [172, 16, 36, 10]),
        ("a pod of another node", [10, 20, 42, 31]),
        ("loopback", [127, 0, 0, 1]),
        ("a group", [224, 0, 0, 9]),
        ("zero", [0, 0, 0, 0]),
    ] {
        probes.add(format!("from {what}"), |tag| WAY.datagram(&from(tag, address), 100));
    }
    probes.add("to a third node's pod", |tag| {
        WAY.datagram(&Ipv4 { destination: THIRD_POD, ..ip(tag) }, 100)
    });
    for protocol in [4, 41] {
        probes.add(format!("protocol {protocol}, a tunnel of the pod's own"), |tag| {
            let inside = WAY.datagram(&Ipv4 { id: tag, ..ip(tag) }, 100);
            let payload = if protocol == 4 { inside } else { pattern(80) };
            Ipv4 { id: tag, protocol, ..ip(tag) }.packet(&payload)
        });
    }
}
