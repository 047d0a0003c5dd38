//! What can be wrong with a packet: families of frames for the tables, and the
//! checks' order made into cases.

use std::net::Ipv4Addr;

use dataplane_common::Reason;

use super::{
    case::Case,
    packet::{Frame, MF, Mac},
    prog::Program,
    world::{NODE_UNKNOWN, NODE2, OTHER_MAC, REMOTE3, ROUTER_MAC},
};

/// A frame and what is wrong with it.
pub type Named = (String, Frame);

/// Frames that are not IPv4, whatever their bytes look like.
#[must_use]
pub fn not_ipv4(base: &Frame) -> Vec<Named> {
    let types =
        [("ARP", 0x0806), ("IPv6", 0x86dd), ("802.3 with a length", 46), ("all ones", 0xffff)];
    let mut frames: Vec<_> = types
        .map(|(name, value)| (format!("Ethertype of {name}"), base.clone().ether_type(value)))
        .into();
    frames.push(("an 802.1Q tag in the frame".to_string(), base.clone().vlan(100)));
    frames
}

/// Every version but 4, every header length below 5, in the `n`th IPv4 header.
#[must_use]
pub fn impossible_headers(base: &Frame, n: usize) -> Vec<Named> {
    let versions = (0..16).filter(|version| *version != 4).map(|version| {
        (format!("version {version}"), base.clone().edit(n, |ip| ip.version = version))
    });
    let lengths = (0..5).map(|ihl| {
        (format!("header length of {ihl} words"), base.clone().edit(n, |ip| ip.ihl = Some(ihl)))
    });
    versions.chain(lengths).collect()
}

/// Total lengths that cannot be, in the `n`th IPv4 header, behind which there
/// are `room` bytes from its first on.
#[must_use]
pub fn impossible_lengths(base: &Frame, n: usize, room: u16) -> Vec<Named> {
    [0, 1, 19, room + 1, 0x8000, u16::MAX]
        .map(|length| {
            let frame = base.clone().edit(n, |ip| ip.total_length = Some(length));
            (format!("total length {length} where {room} bytes are"), frame)
        })
        .into()
}

/// Options of every length there is, in the `n`th IPv4 header.
#[must_use]
pub fn options(base: &Frame, n: usize) -> Vec<Named> {
    const NO_OPERATION: u8 = 1;
    (1..=10)
        .map(|words| {
            let frame = base.clone().edit(n, |ip| ip.options = vec![NO_OPERATION; words * 4]);
            (format!("header length of {} words", words + 5), frame)
        })
        .collect()
}

/// A first, a middle and a last fragment.
#[must_use]
pub fn fragments(base: &Frame, n: usize) -> Vec<Named> {
    [("first", MF), ("middle", MF | 185), ("last", 370), ("last possible", 0x1fff)]
        .map(|(name, fragment)| {
            (format!("the {name} fragment"), base.clone().edit(n, |ip| ip.fragment = fragment))
        })
        .into()
}

/// The verdict on a packet that fails a check.
#[derive(Clone, Copy, Debug)]
pub enum Fails {
    /// It is left as it is.
    Passed(Reason),
    /// It is dropped.
    Dropped(Reason),
}

impl Fails {
    /// What a TC program does with such a packet.
    #[must_use]
    pub fn at_tc(self, case: Case) -> Case {
        match self {
            Self::Passed(reason) => case.passed(reason),
            Self::Dropped(reason) => case.dropped(reason),
        }
    }

    /// XDP drops proven lies; all else is left to TC, which will count it.
    #[must_use]
    pub fn at_xdp(self, case: Case) -> Case {
        match self {
            Self::Passed(_) => case,
            Self::Dropped(reason) => case.dropped(reason),
        }
    }
}

/// One way to fail one check, and no other.
pub struct Fault {
    /// The verdict.
    pub fails: Fails,
    /// What of the packet it changes; two faults of one subject exclude each other.
    pub subjects: &'static [&'static str],
    /// Makes the packet fail.
    pub spoil: fn(Frame) -> Frame,
    /// A GSO size no adjustment of room survives; 0 for none.
    pub gso_size: u32,
}

impl Fault {
    /// One that lies in the packet.
    #[must_use]
    pub const fn new(
        fails: Fails,
        subjects: &'static [&'static str],
        spoil: fn(Frame) -> Frame,
    ) -> Self {
        Self { fails, subjects, spoil, gso_size: 0 }
    }

    fn excludes(&self, other: &Self) -> bool {
        self.subjects.iter().any(|subject| other.subjects.contains(subject))
    }
}

/// For every fault one case, and for every two of them, in the order of the
/// checks, a packet that has both and must fail under the earlier.
///
/// `judge` says what the hook makes of the verdict.
#[must_use]
pub fn in_order(
    program: Program,
    base: &Frame,
    faults: &[Fault],
    judge: fn(Fails, Case) -> Case,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, earlier) in faults.iter().enumerate() {
        let spoilt = (earlier.spoil)(base.clone());
        let case = Case::new(program, format!("fails one check: {:?}", earlier.fails), &spoilt);
        cases.push(judge(earlier.fails, case.gso_size(earlier.gso_size)));
        for later in faults[i + 1..].iter().filter(|later| !earlier.excludes(later)) {
            let what = format!("fails {:?} before {:?}", earlier.fails, later.fails);
            let spoilt = (earlier.spoil)((later.spoil)(base.clone()));
            let gso_size = earlier.gso_size.max(later.gso_size);
            cases.push(judge(earlier.fails, Case::new(program, what, &spoilt).gso_size(gso_size)));
        }
    }
    cases
}

/// MACs of frames that are not for this host: of another machine, of all, of many.
#[must_use]
pub fn not_for_host() -> [(&'static str, Mac); 3] {
    [
        ("a frame for another machine", OTHER_MAC),
        ("a frame for all", [0xff; 6]),
        ("a frame for many", [0x01, 0x00, 0x5e, 0, 0, 5]),
    ]
}

/// A source that belongs to nobody's packets (0/8, RFC 1122 §3.2.1.3).
pub const MARTIAN: Ipv4Addr = Ipv4Addr::new(0, 1, 2, 3);

/// The checks of decapsulation in the design's order, one fault each. What
/// only TC can tell is left out for XDP.
#[must_use]
pub fn decap(program: Program) -> Vec<Fault> {
    use Fails::{Dropped, Passed};
    let mut faults = vec![
        Fault::new(Passed(Reason::DecapNotIpv4), &["type"], |frame| frame.ether_type(0x86dd)),
        Fault::new(Passed(Reason::DecapNotIpip), &["protocol"], |frame| {
            frame.edit(0, |ip| ip.protocol = Some(17))
        }),
        Fault::new(Passed(Reason::DecapNotForHost), &["MAC"], |frame| {
            frame.macs(OTHER_MAC, ROUTER_MAC)
        }),
        Fault::new(Passed(Reason::DecapOuterBadHeader), &["version"], |frame| {
            frame.edit(0, |ip| ip.version = 6)
        }),
        Fault::new(Passed(Reason::DecapOuterOptions), &["options"], |frame| {
            frame.edit(0, |ip| ip.options = vec![1; 4])
        }),
        Fault::new(Passed(Reason::DecapOuterBadChecksum), &["checksum"], |frame| {
            frame.edit(0, |ip| ip.wrong_checksum = true)
        }),
        Fault::new(Passed(Reason::DecapOuterFragment), &["fragment"], |frame| {
            frame.edit(0, |ip| ip.fragment = MF)
        }),
        Fault::new(Passed(Reason::DecapOuterBadLength), &["length"], |frame| {
            frame.edit(0, |ip| ip.total_length = Some(u16::MAX))
        }),
        Fault::new(Passed(Reason::DecapOtherDestination), &["destination"], |frame| {
            frame.edit(0, |ip| ip.to = NODE2)
        }),
        Fault::new(Passed(Reason::DecapUnknownNode), &["source"], |frame| {
            frame.edit(0, |ip| ip.from = NODE_UNKNOWN)
        }),
        Fault::new(Passed(Reason::DecapInnerTruncated), &["length"], |frame| {
            frame.edit(0, |ip| ip.total_length = Some(39))
        }),
        Fault::new(Passed(Reason::DecapInnerBadHeader), &["inner version"], |frame| {
            frame.edit(1, |ip| ip.version = 6)
        }),
        Fault::new(Passed(Reason::DecapInnerBadLength), &["inner length"], |frame| {
            frame.edit(1, |ip| ip.total_length = Some(u16::MAX))
        }),
        Fault::new(Passed(Reason::DecapInnerBadChecksum), &["inner checksum"], |frame| {
            frame.edit(1, |ip| ip.wrong_checksum = true)
        }),
        Fault::new(Passed(Reason::DecapNestedTunnel), &["inner protocol"], |frame| {
            frame.edit(1, |ip| ip.protocol = Some(4))
        }),
        Fault::new(Dropped(Reason::DecapMartianSource), &["inner source"], |frame| {
            frame.edit(1, |ip| ip.from = MARTIAN)
        }),
        Fault::new(Dropped(Reason::DecapOwnSource), &["inner source"], |frame| {
            frame.edit(1, |ip| ip.from = ip.to)
        }),
        Fault::new(Dropped(Reason::DecapForgedSource), &["inner source"], |frame| {
            frame.edit(1, |ip| ip.from = REMOTE3)
        }),
        Fault::new(Passed(Reason::DecapSourceUnknown), &["inner source"], |frame| {
            frame.edit(1, |ip| ip.from = super::world::STRANGER)
        }),
        Fault::new(Dropped(Reason::DecapEcnViolation), &["ECN"], |frame| {
            frame.edit(0, |ip| ip.tos = 0b11)
        }),
        Fault::new(Dropped(Reason::DecapInnerTtlZero), &["inner TTL"], |frame| {
            frame.edit(1, |ip| ip.ttl = 0)
        }),
    ];
    match program {
        // It never sees a GSO packet, and knows whose a MAC is only by the node.
        Program::DecapXdp => {
            let of = |reason| move |fault: &Fault| matches!(fault.fails, Passed(fails) if fails == reason);
            let mac = faults.iter().position(of(Reason::DecapNotForHost)).expect("it is there");
            let mac = faults.remove(mac);
            let node = faults.iter().position(of(Reason::DecapUnknownNode)).expect("it is there");
            faults.insert(node + 1, mac);
        }
        // Of a GSO packet no length field is believed.
        _ => faults.push(Fault {
            gso_size: 1000,
            ..Fault::new(Passed(Reason::DecapCannotUnwrap), &["length", "inner length"], |frame| {
                frame
            })
        }),
    }
    faults
}
