//! Traffic between namespaces: real sockets, content checked, with timeouts.
//!
//! Sockets are made by threads inside the namespaces, so no tool but `ping` is
//! needed and every test learns what the far end saw: content, source address,
//! which packets were lost.

pub mod conversation;
pub mod crowd;
pub mod flood;
pub mod http;
pub mod load;
pub mod ping;
mod sockopt;
pub mod stream;
pub mod tcp;
pub mod udp;

use std::{
    io, thread,
    time::{Duration, Instant},
};

/// How long any single step of a conversation may take. Only a broken data
/// plane waits for so long; slow machines do not come near it.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Binds a port, waiting while it is in use.
///
/// A socket that was just closed can live on for a moment in a child that some
/// other thread forked and that has not reached its `exec` yet.
pub(crate) fn bind<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + TIMEOUT;
    loop {
        match make() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Content that tells every offset from its neighbours: the period is a prime
/// larger than a packet, so that a lost, doubled or shifted segment shows.
pub(crate) struct Pattern(Vec<u8>);

const PERIOD: usize = 65_521;

impl Pattern {
    pub fn new() -> Self {
        // xorshift32; doubled, so that any window of one period is a slice.
        let mut state = 0x9e37_79b9_u32;
        let one: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[0]
            })
            .collect();
        Self([one.as_slice(), one.as_slice()].concat())
    }

    /// Up to `len` bytes of the content from `offset` on; at most one period.
    pub fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = usize::try_from(offset % PERIOD as u64).unwrap_or(0);
        &self.0[start..start + len.min(PERIOD)]
    }

    /// The first byte of `bytes` that differs from the content at `offset`.
    pub fn difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut at = offset;
        for chunk in bytes.chunks(PERIOD) {
            let expected = self.at(at, chunk.len());
            if chunk != expected {
                let same = chunk.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += chunk.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_finds_the_first_wrong_byte() {
        let pattern = Pattern::new();
        let mut bytes = pattern.at(100, 50_000).to_vec();
        bytes.extend_from_slice(pattern.at(50_100, 50_000));
        assert_eq!(pattern.difference(100, &bytes), None);
        bytes[70_000] ^= 1;
        assert_eq!(pattern.difference(100, &bytes), Some(70_100));
        assert!(pattern.difference(101, &bytes[..10]).is_some(), "a shift shows");
    }
}
