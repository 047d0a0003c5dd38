//! What `tunless trace` watches with: programs in front of and behind each program that packets meet
//! (`fentry` and `fexit` on BPF programs), and one where the kernel frees packets that it drops.
//!
//! They are loaded while a command traces, and gone with it. The programs that packets meet are not
//! changed, and have no instruction for it. Which reason a run ended in is read off the counters: it is
//! the one that is larger behind the run than in front of it, on this CPU, where no other run of the same
//! program can come in between.
#![no_std]
#![no_main]

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, PerCpuArray, RingBuf},
    helpers::generated,
    macros::btf_map,
};
use dataplane_common::{
    Counter, Ipv4Be, Program, Reason,
    ipv4::{Ipv4Header, PROTOCOL_IPIP},
    trace::{
        Event, Filter, Identity, KERNEL, MAX_PREFIXES, MAX_REASONS, Offsets, REASON_WORDS, RING,
        SNAPSHOT, Unreported, reasons_of,
    },
};

/// The kernel gives the helpers only to programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// How many packets are recognized at later hooks.
const MAX_PACKETS: usize = 16_384;

/// A run of a program that is under way on this CPU.
#[repr(C)]
struct Run {
    /// What will be reported.
    event: Event,
    /// Whether it is of a packet that is traced.
    is_traced: bool,
    /// The counters of the program's reasons before it.
    before: [u64; MAX_REASONS],
}

/// A packet that was seen at a hook.
#[derive(Clone, Copy)]
#[repr(C)]
struct Known {
    identity: Identity,
    /// See [`Event::packet`].
    packet: u64,
}

/// The second that is counted, and how many packets were taken in it.
#[repr(C)]
struct Window {
    /// Since boot.
    second: u64,
    taken: u64,
}

/// Where the kernel keeps what is read. Written by the command.
#[btf_map]
static OFFSETS: Array<Offsets, 1> = Array::new();

/// Which packets. Written by the command.
#[btf_map]
static FILTER: Array<Filter, 1> = Array::new();

/// The counters of the programs that packets meet. Only read.
#[btf_map]
static COUNTERS: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();

/// The run of each program that is under way.
#[btf_map]
static RUNS: PerCpuArray<Run, { Program::ALL.len() + 1 }> = PerCpuArray::new();

/// The address of a packet's `sk_buff` → the packet.
#[btf_map]
static PACKETS: LruHashMap<u64, Known, MAX_PACKETS> = LruHashMap::new();

/// What the command reads.
#[btf_map]
static EVENTS: RingBuf<Event, RING> = RingBuf::new();

/// What was not reported.
#[btf_map]
static UNREPORTED: PerCpuArray<Unreported, 1> = PerCpuArray::new();

/// For the rate.
#[btf_map]
static WINDOW: Array<Window, 1> = Array::new();

/// Defines the pair of programs around each program that packets meet.
macro_rules! around {
    ($($program:ident $look:ident $front:literal $enter:ident $behind:literal $leave:ident)*) => {$(
        #[doc = concat!("In front of `", stringify!($program), "`: notes the packet.")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $front)]
        pub extern "C" fn $enter(context: *mut c_void) -> i32 {
            const REASONS: (u32, u32) = reasons_of(Program::$program);
            let _ = enter(context, Program::$program as u32, REASONS, $look);
            0
        }

        #[doc = concat!("Behind `", stringify!($program), "`: reports what became of it.")]
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $behind)]
        pub extern "C" fn $leave(_context: *mut c_void) -> i32 {
            const REASONS: (u32, u32) = reasons_of(Program::$program);
            let _ = leave(Program::$program as u32, REASONS);
            0
        }
    )*};
}

around! {
    DecapTc of_skb "fentry/enter_decap_tc" enter_decap_tc "fexit/leave_decap_tc" leave_decap_tc
    DecapXdp of_xdp "fentry/enter_decap_xdp" enter_decap_xdp "fexit/leave_decap_xdp" leave_decap_xdp
    EncapHost of_skb "fentry/enter_encap_host" enter_encap_host "fexit/leave_encap_host" leave_encap_host
    GrantDecap of_skb "fentry/enter_grant_decap" enter_grant_decap "fexit/leave_grant_decap" leave_grant_decap
    EncapPod of_skb "fentry/enter_encap_pod" enter_encap_pod "fexit/leave_encap_pod" leave_encap_pod
}

/// Where the kernel drops a packet (`trace_kfree_skb`, `net/core/skbuff.c`): reports it if it was seen at a
/// hook of ours.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/kfree_skb")]
pub extern "C" fn drop_by_kernel(context: *mut c_void) -> i32 {
    let _ = kernel_drop(context);
    0
}

/// A packet as it is in the kernel's memory.
struct Frame {
    /// The `sk_buff`; 0 before there is one.
    skb: u64,
    /// Where the frame begins.
    start: u64,
    /// How many bytes of it lie there.
    linear: u32,
    /// How many it has.
    length: u32,
    /// Where the IP header begins.
    network: u64,
    ifindex: u32,
}

impl Frame {
    /// The same from its IP header on. Where the kernel drops a packet, what counts as its beginning may be
    /// in front of that or behind it.
    #[inline(always)]
    fn without_link_header(self) -> Self {
        let more = self.start.wrapping_sub(self.network) as u32;
        let (linear, length) = (self.linear.wrapping_add(more), self.length.wrapping_add(more));
        Self { start: self.network, linear, length, ..self }
    }
}

#[inline(always)]
fn enter(
    context: *mut c_void,
    hook: u32,
    (first, count): (u32, u32),
    look: impl Fn(u64, &Offsets) -> Option<Frame>,
) -> Option<()> {
    let run = run(hook)?;
    run.is_traced = false;
    let frame = look(argument(context, 0), OFFSETS.get(0)?)?;
    let now = now();
    let event = &mut run.event;
    take(&frame, now, event)?;
    event.hook = hook;
    event.location = 0;
    event.time = now;
    fill(event, &frame)?;
    let mut index = 0;
    while index < count {
        *run.before.get_mut(index as usize)? = COUNTERS.get(first + index)?.packets;
        index += 1;
    }
    run.is_traced = true;
    Some(())
}

#[inline(always)]
fn leave(hook: u32, (first, count): (u32, u32)) -> Option<()> {
    let run = run(hook)?;
    if !run.is_traced {
        return None;
    }
    run.is_traced = false;
    let mut index = 0;
    // What `decap_xdp` does not look at is counted by `decap_tc` alone.
    while *run.before.get(index as usize)? == COUNTERS.get(first + index)?.packets {
        index += 1;
        if index >= count {
            return None;
        }
    }
    let reason = first + index;
    if !is_wanted(reason)? {
        return None;
    }
    run.event.reason = reason;
    report(&run.event)
}

#[inline(always)]
fn kernel_drop(context: *mut c_void) -> Option<()> {
    let skb = argument(context, 0);
    let known = PACKETS.get_ptr(skb)?;
    // SAFETY: an element of a map. Another CPU may write it meanwhile: then it is another packet's.
    let known = unsafe { *known };
    if FILTER.get(0)?.kernel == 0 {
        return None;
    }
    let frame = of_skb(skb, OFFSETS.get(0)?)?.without_link_header();
    let (identity, _) = identify(&frame)?;
    // Behind our hooks the memory may have become another packet's.
    if !identity.may_be(&known.identity) {
        return None;
    }
    let event = &mut run(KERNEL)?.event;
    event.identity = identity;
    event.packet = known.packet;
    event.hook = KERNEL;
    event.location = argument(context, 1);
    event.reason = argument(context, 2) as u32;
    event.time = now();
    fill(event, &frame)?;
    let _ = PACKETS.remove(skb);
    report(event)
}

/// Returns the number of a packet that is to be traced, and notes what it is.
#[inline(always)]
fn take(frame: &Frame, now: u64, event: &mut Event) -> Option<()> {
    let (identity, outer) = identify(frame)?;
    let filter = FILTER.get(0)?;
    if !matches(filter, &identity, outer) {
        return None;
    }
    event.identity = identity;
    let known = PACKETS.get_ptr(frame.skb);
    // SAFETY: as in `kernel_drop`.
    let known = known.map(|known| unsafe { *known });
    if let Some(known) = known.filter(|known| known.identity.may_be(&identity)) {
        event.packet = known.packet;
        return Some(());
    }
    if is_over(filter.rate, now)? {
        let unreported = UNREPORTED.get_ptr_mut(0)?;
        // SAFETY: this CPU's own.
        unsafe { (*unreported).limited += 1 };
        return None;
    }
    event.packet = now;
    if frame.skb != 0 {
        let _ = PACKETS.insert(frame.skb, Known { identity, packet: now }, 0);
    }
    Some(())
}

/// Returns whether the filter wants the packet. `outer`: the addresses of its outer header, if it has one.
#[inline(always)]
fn matches(filter: &Filter, of: &Identity, outer: [Ipv4Be; 2]) -> bool {
    let [from, to] = [of.ports as u16, (of.ports >> 16) as u16];
    let is_other_protocol = filter.protocol != 0 && filter.protocol != of.protocol;
    let is_other_port = filter.port != 0 && filter.port != from && filter.port != to;
    if is_other_protocol || is_other_port {
        return false;
    }
    // The same packet is taken at every hook, and of a connection's packets each in its turn.
    let mixed = of.ports ^ u32::from(of.id) ^ of.source.0 ^ of.destination.0;
    let mixed = mixed.wrapping_mul(0x9e37_79b1) >> 8;
    if filter.sample > 1 && !mixed.is_multiple_of(filter.sample) {
        return false;
    }
    if filter.prefixes == 0 {
        return true;
    }
    let mut index = 0;
    while index < MAX_PREFIXES && index < usize::from(filter.prefixes) {
        let Some(prefix) = filter.within.get(index) else { return false };
        let is_in = |address: Ipv4Be| address.0 & prefix.mask.0 == prefix.network.0;
        if is_in(of.source) | is_in(of.destination) | is_in(outer[0]) | is_in(outer[1]) {
            return true;
        }
        index += 1;
    }
    false
}

/// Returns whether this second has had its packets. CPUs that count at once may let one more through.
#[inline(always)]
fn is_over(rate: u32, now: u64) -> Option<bool> {
    let window = WINDOW.get_ptr_mut(0)?;
    // SAFETY: an element of an array, which other CPUs write, too: numbers.
    let window = unsafe { &mut *window };
    let second = now / 1_000_000_000;
    if window.second != second {
        window.second = second;
        window.taken = 0;
    }
    window.taken += 1;
    Some(window.taken > u64::from(rate))
}

#[inline(always)]
fn is_wanted(reason: u32) -> Option<bool> {
    let word = FILTER.get(0)?.reasons.get((reason / 64) as usize % REASON_WORDS)?;
    Some(word >> (reason % 64) & 1 != 0)
}

/// Copies the beginning of the frame into the event.
#[inline(always)]
fn fill(event: &mut Event, frame: &Frame) -> Option<()> {
    // The verifier has to see a comparison of the very number that is used.
    let captured = black_box(frame.linear.min(SNAPSHOT as u32));
    if captured > SNAPSHOT as u32 {
        return None;
    }
    event.length = frame.length;
    event.ifindex = frame.ifindex;
    event.captured = captured;
    event.network = frame.network.wrapping_sub(frame.start) as u32;
    // SAFETY: `data` has room for that many. What cannot be read is an error.
    let result = unsafe {
        generated::bpf_probe_read_kernel(
            event.data.as_mut_ptr().cast(),
            captured,
            frame.start as *const c_void,
        )
    };
    (result == 0).then_some(())
}

#[inline(always)]
fn report(event: &Event) -> Option<()> {
    if EVENTS.output(event, 0).is_err() {
        let unreported = UNREPORTED.get_ptr_mut(0)?;
        // SAFETY: this CPU's own.
        unsafe { (*unreported).lost += 1 };
    }
    Some(())
}

/// A packet that TC programs see.
#[inline(always)]
fn of_skb(skb: u64, offsets: &Offsets) -> Option<Frame> {
    let length: u32 = read(skb, offsets.skb_len)?;
    let in_pages: u32 = read(skb, offsets.skb_data_len)?;
    let head: u64 = read(skb, offsets.skb_head)?;
    let start: u64 = read(skb, offsets.skb_data)?;
    let network: u16 = read(skb, offsets.skb_network_header)?;
    let device: u64 = read(skb, offsets.skb_dev)?;
    Some(Frame {
        skb,
        start,
        linear: length.wrapping_sub(in_pages),
        length,
        network: head + u64::from(network),
        // A packet that is dropped may have none any more.
        ifindex: read(device, offsets.dev_ifindex).unwrap_or(0),
    })
}

/// A frame that XDP programs see.
#[inline(always)]
fn of_xdp(xdp: u64, offsets: &Offsets) -> Option<Frame> {
    const ETHERNET: u64 = 14;
    let start: u64 = read(xdp, offsets.xdp_data)?;
    let end: u64 = read(xdp, offsets.xdp_data_end)?;
    let queue: u64 = read(xdp, offsets.xdp_rxq)?;
    let device: u64 = read(queue, offsets.rxq_dev)?;
    let length = end.wrapping_sub(start) as u32;
    let ifindex = read(device, offsets.dev_ifindex)?;
    Some(Frame { skb: 0, start, linear: length, length, network: start + ETHERNET, ifindex })
}

/// Reads what a packet is, and the addresses of its outer header if it is encapsulated.
#[inline(always)]
fn identify(frame: &Frame) -> Option<(Identity, [Ipv4Be; 2])> {
    let mut at = frame.network;
    let mut header = header(at)?;
    let mut outer = [Ipv4Be::UNSPECIFIED; 2];
    if header.protocol() == PROTOCOL_IPIP {
        outer = [header.source(), header.destination()];
        at += u64::from(header.header_length());
        header = self::header(at)?;
    }
    // Not IPv4: an identity of zeros, which only a filter without conditions takes.
    if header.version() != 4 {
        return Some((Identity::default(), outer));
    }
    let protocol = header.protocol();
    let has_ports = matches!(protocol, 6 | 17) && !header.is_fragment();
    let ports = at + u64::from(header.header_length());
    let identity = Identity {
        source: header.source(),
        destination: header.destination(),
        ports: if has_ports { read(ports, 0)? } else { 0 },
        id: header.identification(),
        protocol: u16::from(protocol),
    };
    Some((identity, outer))
}

#[inline(always)]
fn header(at: u64) -> Option<Ipv4Header> {
    Some(Ipv4Header::from_words(read(at, 0)?, read(at, 8)?, read(at, 16)?))
}

/// The state of a program's run on this CPU.
#[inline(always)]
fn run(hook: u32) -> Option<&'static mut Run> {
    let run = RUNS.get_ptr_mut(hook)?;
    // SAFETY: this CPU's own, and a program does not run inside itself.
    Some(unsafe { &mut *run })
}

/// An argument of what is traced.
#[inline(always)]
fn argument(context: *mut c_void, index: usize) -> u64 {
    // SAFETY: the kernel gives an array of arguments, and has that many of them.
    unsafe { *context.cast::<u64>().wrapping_add(index) }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// Reads a number out of the kernel's memory.
#[inline(always)]
fn read<T: Copy + Default>(from: u64, offset: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: `value` has this size. What cannot be read is an error.
    let result = unsafe {
        generated::bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (from + u64::from(offset)) as *const c_void,
        )
    };
    (result == 0).then_some(value)
}

/// Never in the object: the build gate refuses one that can panic.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
