//! What every version lays out alike, so that one can go on where another stopped.
//!
//! | what | frozen part |
//! |---|---|
//! | key of `ROUTES` | network, mask: 8 bytes |
//! | value of `ROUTES` | prefix (8), node (4), since (4), flags (2), source (2); new fields only behind |
//! | `EPOCH` | array, element 0 begins with a `u32`; adding to it ends all leases |
//! | `TRY` | array of one: a `u64`, `CLOCK_MONOTONIC` in nanoseconds, 0 for none (from 0.2 on) |
//! | `memory` | array of one, [`MEMORY`] bytes: JSON, ended by a zero |
//! | XDP hand-over | 8 bytes: secret, node |
//! | names of links | `<program>_<interface index>` |
//!
//! 0.1 keeps its hand-over secret in the map `STATE`, at [`STATE_SECRET`].

use std::{collections::BTreeMap, io, path::Path, sync::atomic::Ordering, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use dataplane_common::{Ipv4Be, Prefix, Route};
use ipnet::Ipv4Net;

use super::sys::{self, SharedWords};

/// When a `tunless try` is over.
pub const TRY: &str = "TRY";
/// Size of the memory, bytes.
pub const MEMORY: u32 = 64 << 10;
/// Size of the key of `ROUTES`, bytes.
const ROUTES_KEY: usize = 8;
/// Size of the frozen part of its value, bytes.
const ROUTES_VALUE: usize = 20;
/// Where the secret is in 0.1's `STATE`, bytes.
const STATE_SECRET: usize = 44;

/// A map with sizes of its own.
struct RawMap {
    map: std::os::fd::OwnedFd,
    key: usize,
    value: usize,
}

impl RawMap {
    fn open(pin: &Path) -> Result<Self> {
        let context = || format!("opening {}", pin.display());
        let map = sys::open(pin).with_context(context)?;
        let info = MapInfo::from_pin(pin).with_context(context)?;
        Ok(Self { map, key: info.key_size() as usize, value: info.value_size() as usize })
    }

    fn element(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.value];
        sys::lookup(&self.map, key, &mut value)?;
        Ok(value)
    }
}

/// The routes in a version's directory of maps.
///
/// # Errors
/// If there is no such map, it cannot be read, or it does not begin as every version's does.
pub fn routes(directory: &Path) -> Result<BTreeMap<Ipv4Net, Route>> {
    let pin = directory.join("ROUTES");
    let map = RawMap::open(&pin)?;
    ensure!(
        map.key == ROUTES_KEY && map.value >= ROUTES_VALUE,
        "{} is not a map of routes of tunless",
        pin.display()
    );
    let mut routes = BTreeMap::new();
    let (mut before, mut key) = (None, vec![0; map.key]);
    while sys::next_key(&map.map, before.as_deref(), &mut key)
        .with_context(|| format!("reading {}", pin.display()))?
    {
        // An entry may go while we read.
        if let Ok(value) = map.element(&key) {
            routes.extend(parse(&value));
        }
        before = Some(key.clone());
    }
    Ok(routes)
}

/// Reads the frozen part of a value of `ROUTES`; `None` if it makes no sense.
fn parse(value: &[u8]) -> Option<(Ipv4Net, Route)> {
    let word = |at: usize| Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(value.get(at..at + 2)?.try_into().ok()?));
    let prefix = Prefix { network: Ipv4Be(word(0)?), mask: Ipv4Be(word(4)?) };
    let route =
        Route { node: Ipv4Be(word(8)?), since: word(12)?, flags: half(16)?, source: half(18)? };
    let net = Ipv4Net::new(prefix.network.into(), prefix.length()).ok()?;
    (Prefix::mask(prefix.length()) == prefix.mask).then_some((net, route))
}

/// The hand-over secret of 0.1, if the directory is one of 0.1's.
#[must_use]
pub fn secret(directory: &Path) -> Option<u32> {
    let state = RawMap::open(&directory.join("STATE")).ok()?;
    parse_secret(&state.element(&0_u32.to_ne_bytes()).ok()?)
}

/// Reads the secret in 0.1's `STATE`; `None` if there is none.
fn parse_secret(state: &[u8]) -> Option<u32> {
    let bytes = state.get(STATE_SECRET..STATE_SECRET + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes)).filter(|secret| *secret != 0)
}

/// Raises the number that an element of `EPOCH` begins with; `None` if it has none.
fn raise(epoch: &mut [u8]) -> Option<()> {
    let number = epoch.first_chunk_mut::<4>()?;
    *number = u32::from_ne_bytes(*number).wrapping_add(1).to_ne_bytes();
    Some(())
}

/// Ends all leases of a version: adds to the number that good leases bear, or bear the sum of.
///
/// # Errors
/// If there is no such map, or the kernel refuses.
pub fn end_leases(directory: &Path) -> Result<()> {
    let pin = directory.join("EPOCH");
    let map = RawMap::open(&pin)?;
    // In place, so that nothing is undone that a daemon of that version writes behind it.
    if let Ok(shared) = SharedWords::of(&map.map, 1) {
        shared.words()[0].fetch_add(1, Ordering::SeqCst);
        return Ok(());
    }
    // The maps of 0.1 share no memory, and have nothing behind it.
    let index = 0_u32.to_ne_bytes();
    let context = || format!("ending all leases in {}", pin.display());
    let mut value = map.element(&index).with_context(context)?;
    raise(&mut value).with_context(context)?;
    sys::update(&map.map, &index, &value).with_context(context)
}

/// Returns when the `tunless try` of a version is over, if one is under way or over: `CLOCK_MONOTONIC`.
///
/// # Errors
/// If it cannot be read. A version that knows of none has none.
pub fn try_end(directory: &Path) -> Result<Option<Duration>> {
    let pin = directory.join(TRY);
    if !pin.exists() {
        return Ok(None);
    }
    let map = RawMap::open(&pin)?;
    let value = map.element(&0_u32.to_ne_bytes());
    let value = value.with_context(|| format!("reading {}", pin.display()))?;
    Ok(parse_try_end(&value))
}

fn parse_try_end(value: &[u8]) -> Option<Duration> {
    let nanoseconds = u64::from_ne_bytes(*value.first_chunk()?);
    Some(Duration::from_nanos(nanoseconds)).filter(|end| !end.is_zero())
}

/// Has the `tunless try` of a version end then; `None`: never.
///
/// # Errors
/// If there is no such map, or the kernel refuses.
pub fn set_try_end(directory: &Path, end: Option<Duration>) -> Result<()> {
    let pin = directory.join(TRY);
    let end = end.map_or(0, |end| u64::try_from(end.as_nanos()).unwrap_or(u64::MAX));
    let map = RawMap::open(&pin)?;
    ensure!(map.value == size_of::<u64>(), "{} holds no time", pin.display());
    sys::update(&map.map, &0_u32.to_ne_bytes(), &end.to_ne_bytes())
        .with_context(|| format!("writing {}", pin.display()))
}

/// Reads the memory; `None` if there is none.
///
/// # Errors
/// If it cannot be read.
pub fn read_memory(pin: &Path) -> Result<Option<Vec<u8>>> {
    if !pin.exists() {
        return Ok(None);
    }
    let map = RawMap::open(pin)?;
    let value = map.element(&0_u32.to_ne_bytes());
    let value = value.with_context(|| format!("reading {}", pin.display()))?;
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(text.to_vec()).filter(|text| !text.is_empty()))
}

/// Writes the memory; makes the map if there is none.
///
/// # Errors
/// If the text is too long, or the kernel refuses.
pub fn write_memory(pin: &Path, text: &[u8]) -> Result<()> {
    let context = || format!("writing {}", pin.display());
    ensure!(text.len() < MEMORY as usize, "{}: {} bytes are too many", context(), text.len());
    let map = if pin.exists() {
        RawMap::open(pin)?
    } else {
        let map = sys::create_array("memory", MEMORY).with_context(context)?;
        sys::pin(&map, pin).with_context(context)?;
        super::pins::restrict(pin)?;
        RawMap { map, key: 4, value: MEMORY as usize }
    };
    ensure!(map.value > text.len(), "{}: the map is too small", context());
    let mut value = vec![0; map.value];
    value[..text.len()].copy_from_slice(text);
    sys::update(&map.map, &0_u32.to_ne_bytes(), &value).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps of 0.1.0 and 0.1.1, dumped from the kernel; each file names its command.
    const DUMPS: [&str; 2] = [include_str!("frozen/0.1.0.txt"), include_str!("frozen/0.1.1.txt")];

    /// The routes in each of them: prefix, node, flags, source.
    const ROUTES: [&str; 5] = [
        "10.20.105.192/32 172.16.36.10 1 1",
        "10.20.42.0/26 172.16.35.4 0 0",
        "10.20.43.0/26 172.16.36.11 4 0",
        "10.20.44.0/26 172.16.36.12 0 5",
        "172.16.36.10/32 172.16.36.10 1 1",
    ];

    /// Keys and values of a map in a dump.
    fn entries(dump: &str, map: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let byte = |digits: &str| u8::from_str_radix(digits, 16).expect("hexadecimal digits");
        let bytes =
            |hex: &str| (0..hex.len()).step_by(2).map(|at| byte(&hex[at..at + 2])).collect();
        let entry = |line: &str| {
            let mut words = line.strip_prefix(map)?.split_whitespace();
            Some((bytes(words.next()?), bytes(words.next()?)))
        };
        dump.lines().filter_map(entry).collect()
    }

    /// The value of a dump's route to this prefix.
    fn value(dump: &str, cidr: &str) -> Vec<u8> {
        let is_it = |value: &Vec<u8>| parse(value).is_some_and(|(net, _)| net.to_string() == cidr);
        let mut values = entries(dump, "ROUTES").into_iter().map(|(_, value)| value);
        values.find(is_it).expect("a route to it")
    }

    #[test]
    fn the_routes_of_0_1_are_read() {
        for dump in DUMPS {
            let entries = entries(dump, "ROUTES");
            let mut read = Vec::new();
            for (key, value) in &entries {
                assert_eq!(key, &value[..ROUTES_KEY], "a value begins with its key");
                let (net, Route { node, since, flags, source }) = parse(value).unwrap();
                assert_eq!(since == 0, flags == Route::LOCAL, "{net}");
                let node = std::net::Ipv4Addr::from(node);
                read.push(format!("{net} {node} {flags} {source}"));
            }
            read.sort();
            assert_eq!(read, ROUTES);
        }
    }

    #[test]
    fn the_secret_of_0_1_is_found() {
        for dump in DUMPS {
            let [(_, state)] = &entries(dump, "STATE")[..] else { panic!("one element") };
            let [(_, rodata)] = &entries(dump, "RODATA")[..] else { panic!("one element") };
            let secret = parse_secret(state).unwrap();
            // The programs were loaded with the same number.
            let is_secret = |word: &[u8]| word == secret.to_ne_bytes();
            assert!(rodata.chunks(4).any(is_secret), "{secret:08x}");
            assert_eq!(parse_secret(&state[..STATE_SECRET + 3]), None, "truncated");
        }
    }

    #[test]
    fn the_epoch_of_0_1_is_raised() {
        for dump in DUMPS {
            let [(_, epoch)] = &entries(dump, "EPOCH")[..] else { panic!("one element") };
            let number = |epoch: &[u8]| u32::from_ne_bytes(epoch[..4].try_into().unwrap());
            let mut raised = epoch.clone();
            raise(&mut raised).unwrap();
            assert_eq!(number(&raised), number(epoch) + 1);
            assert_eq!(raised[4..], epoch[4..]);
        }
        assert_eq!(raise(&mut [1, 2, 3]), None);
    }

    #[test]
    fn a_later_version_may_have_more_behind_it() {
        let known = value(DUMPS[0], "10.20.42.0/26");
        let longer = [&known[..], &[7; 12]].concat();
        assert_eq!(parse(&longer), parse(&known));
    }

    #[test]
    fn a_later_version_may_have_more_behind_the_end_of_a_try() {
        let end = Duration::from_nanos(0x0102_0304_0506_0708);
        let value = 0x0102_0304_0506_0708_u64.to_ne_bytes();
        assert_eq!(parse_try_end(&value), Some(end));
        assert_eq!(parse_try_end(&[&value[..], &[7; 8]].concat()), Some(end));
        assert_eq!(parse_try_end(&[0; 8]), None, "kept");
        assert_eq!(parse_try_end(&value[..7]), None);
    }

    #[test]
    fn what_makes_no_sense_is_not_a_route() {
        let mut known = value(DUMPS[0], "10.20.42.0/26");
        assert_eq!(parse(&known[..ROUTES_VALUE - 1]), None);
        known[5] = 0;
        assert_eq!(parse(&known), None, "a mask with holes");
    }

    /// This version still lays its routes out like that.
    #[test]
    fn our_own_layout_begins_like_it() {
        use dataplane_common::PrefixRoute;
        let known = value(DUMPS[0], "10.20.42.0/26");
        let (net, route) = parse(&known).unwrap();
        let prefix = Prefix::new(net.addr().into(), net.prefix_len());
        let entry = PrefixRoute { prefix, route };
        assert_eq!(size_of::<Prefix>(), ROUTES_KEY);
        // SAFETY: `PrefixRoute` is `repr(C)` without padding, so all its bytes are set.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const entry).cast::<u8>(), size_of::<PrefixRoute>())
        };
        assert_eq!(bytes[..ROUTES_VALUE], known);
        assert_eq!(size_of::<dataplane_common::Handover>(), 8);
    }
}
