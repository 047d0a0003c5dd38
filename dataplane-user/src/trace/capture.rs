//! Packets in a file that tcpdump and Wireshark read.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane_common::trace::{Event, SNAPSHOT};
use pcap_file::{
    DataLink, Endianness, TsResolution,
    pcap::{PcapHeader, PcapPacket, PcapWriter},
};

/// An Ethernet header of zeros with the type of IPv4.
const ETHERNET: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00];

/// What readers are to expect at most, bytes: as tcpdump has it. Readers refuse packets that were longer,
/// also where less of them is in the file.
const MAX_FRAME: u32 = 262_144;

/// The file.
pub struct Capture(PcapWriter<Box<dyn Write>>);

impl Capture {
    /// Begins one; `-` is stdout.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let context = || format!("writing {}", path.display());
        let output: Box<dyn Write> = if path.as_os_str() == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).with_context(context)?)
        };
        let header = PcapHeader {
            snaplen: MAX_FRAME,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        Ok(Self(PcapWriter::with_header(output, header).with_context(context)?))
    }

    /// Appends the packet of an event; `time`: since 1970.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, event: &Event, time: Duration) -> Result<()> {
        let (frame, length) = frame(event);
        self.0
            .write_packet(&PcapPacket::new_owned(time, length, frame))
            .context("writing a packet")?;
        Ok(())
    }
}

/// A packet as an Ethernet frame, and how long it was before it was cut: a tunnel device has no Ethernet
/// header, nor has what the kernel drops.
fn frame(event: &Event) -> (Vec<u8>, u32) {
    let captured = (event.captured as usize).min(SNAPSHOT);
    let mut data: Vec<u8> = event.data.iter().flat_map(|word| word.to_ne_bytes()).collect();
    data.truncate(captured);
    if event.network != 0 {
        return (data, event.length);
    }
    data.splice(0..0, ETHERNET);
    (data, event.length.saturating_add(ETHERNET.len() as u32))
}

#[cfg(test)]
mod tests {
    use pcap_file::pcap::PcapReader;

    use super::*;

    fn event(network: u32, captured: u32) -> Event {
        Event {
            length: 1500,
            captured,
            network,
            data: [u64::MAX; SNAPSHOT / 8],
            ..Event::default()
        }
    }

    #[test]
    fn a_capture_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.pcap");
        let time = Duration::new(1_800_000_000, 123_456_789);
        let mut capture = Capture::create(&path).unwrap();
        for event in [event(14, 128), event(0, 40), event(14, u32::MAX)] {
            capture.write(&event, time).unwrap();
        }
        drop(capture);
        let mut reader = PcapReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.header().datalink, DataLink::ETHERNET);
        let mut read = || {
            let packet = reader.next_packet().unwrap().unwrap();
            assert_eq!(packet.timestamp, time);
            (packet.orig_len, packet.data.into_owned())
        };
        assert_eq!(read(), (1500, vec![0xff; 128]));
        let (length, frame) = read();
        assert_eq!((length, frame.len()), (1514, 54));
        assert_eq!(frame[..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0xff, 0xff]);
        assert_eq!(read().1.len(), 128, "no more than there is");
        assert!(reader.next_packet().is_none());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let error = Capture::create("/nowhere/file".as_ref()).err().unwrap();
        assert!(format!("{error:#}").starts_with("writing /nowhere/file: "), "{error:#}");
    }
}
