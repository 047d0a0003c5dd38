//! The kernel's packet generator (`net/core/pktgen.c`): a thread in the kernel that
//! hands packets to a device as fast as it takes them.

use std::{fs, net::Ipv4Addr, ops::Range, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{
    Netns,
    addr::{Mac, mac_text},
};

/// Without the checksum of the frame: 64 bytes on a wire.
const FRAME: u32 = 60;

/// UDP to send.
#[derive(Clone, Debug)]
pub struct Pktgen {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub to_mac: Mac,
    /// A flow for each, in turn.
    pub source_ports: Range<u16>,
    pub destination_ports: Range<u16>,
    pub packets: u64,
}

impl Pktgen {
    /// Sends it all by `device`; nanoseconds that it took.
    pub fn send(&self, netns: &Netns, device: &str) -> Result<f64> {
        netns.run(|| {
            write("kpktgend_0", "rem_device_all")?;
            write("kpktgend_0", &format!("add_device {device}"))?;
            let Self { from, to, to_mac, source_ports, destination_ports, packets } = self;
            for line in [
                format!("count {packets}"),
                "clone_skb 0".to_owned(),
                format!("pkt_size {FRAME}"),
                "delay 0".to_owned(),
                format!("src_min {from}"),
                format!("src_max {from}"),
                format!("dst {to}"),
                format!("dst_mac {}", mac_text(*to_mac)),
                // Equal ends stand for one port, otherwise the upper one is no more.
                format!("udp_src_min {}", source_ports.start),
                format!("udp_src_max {}", last(source_ports)),
                format!("udp_dst_min {}", destination_ports.start),
                format!("udp_dst_max {}", last(destination_ports)),
            ] {
                write(device, &line)?;
            }
            // Returns when all is sent.
            write("pgctrl", "start")?;
            let report = fs::read_to_string(place(device))?;
            write("kpktgend_0", "rem_device_all")?;
            self.took(&report).with_context(|| format!("pktgen on {device}: {report}"))
        })
    }

    /// From `Result: OK: 46712(c46612+d100) usec, 1000 (60byte,0frags)`.
    fn took(&self, report: &str) -> Result<f64> {
        let (_, result) = report.split_once("Result: OK: ").context("no result")?;
        let (microseconds, rest) = result.split_once('(').context("no time")?;
        let sent = rest.split_once("usec, ").and_then(|(_, sent)| sent.split_once(' '));
        let sent: u64 = sent.context("no number of packets")?.0.parse()?;
        ensure!(sent == self.packets, "{sent} of {} packets were sent", self.packets);
        Ok(microseconds.parse::<f64>()? * 1000.0)
    }
}

fn last(ports: &Range<u16>) -> u16 {
    if ports.len() == 1 { ports.start } else { ports.end }
}

fn place(file: &str) -> PathBuf {
    // Of this thread's namespace.
    PathBuf::from("/proc/thread-self/net/pktgen").join(file)
}

fn write(file: &str, line: &str) -> Result<()> {
    let path = place(file);
    fs::write(&path, format!("{line}\n"))
        .with_context(|| format!("cannot write `{line}` to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pktgen(packets: u64) -> Pktgen {
        Pktgen {
            from: Ipv4Addr::LOCALHOST,
            to: Ipv4Addr::LOCALHOST,
            to_mac: [2; 6],
            source_ports: 1024..1025,
            destination_ports: 9..10,
            packets,
        }
    }

    #[test]
    fn the_report_is_read() {
        let report = "Params: count 1000 …\nResult: OK: 46712(c46612+d100) usec, 1000 (60byte,0frags)\n  21407pps\n";
        assert!((pktgen(1000).took(report).unwrap() - 46_712_000.0).abs() < 1.0);
        assert!(pktgen(1001).took(report).is_err(), "one is missing");
        assert!(pktgen(1000).took("Result: Idle").is_err());
    }

    #[test]
    fn one_port_is_one_port() {
        assert_eq!(last(&(1024..1025)), 1024);
        assert_eq!(last(&(1024..1124)), 1124);
    }
}
