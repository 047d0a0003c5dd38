//! Which flows there are: of one packet in so many, for user space to ask conntrack about.

use dataplane_common::{
    Counter, Direction,
    ipv4::Ipv4Header,
    shadow::{Finding, SAMPLE},
};

use super::INNER;
use crate::{
    count,
    flow::{self, Control},
    helpers, maps,
    packet::{ETHERNET, Frame},
};

/// Looks at one packet in [`SAMPLE`], `length` bytes long without the outer header.
#[inline(always)]
pub fn take(frame: Frame, header: &Ipv4Header, direction: Direction, length: u32) {
    if helpers::random() & (SAMPLE - 1) != 0 {
        return;
    }
    let finding = match flow::read(frame, INNER, header, direction) {
        Err(_) => Finding::SampleNoFlow,
        Ok(seen) if !matches!(seen.control, Control::None) => Finding::SampleControl,
        Ok(seen) => {
            match maps::sampled(&seen.flow) {
                // Two CPUs may count at once and one be lost: a sample stays one.
                Some(counter) => {
                    counter.packets += 1;
                    counter.bytes += u64::from(length);
                }
                None => maps::sample(&seen.flow, &Counter { packets: 1, bytes: length.into() }),
            }
            Finding::SampleFlow
        }
    };
    count::finding(finding, length + ETHERNET as u32);
}
