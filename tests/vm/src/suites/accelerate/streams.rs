//! One flow each way, while something happens.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Result, ensure};
use tunless_lab::{
    Lab, Pod,
    traffic::stream::{Options, Stream},
};

use crate::{Kernel, checks::Outcome};

/// What an emulator carries easily, packets per second and flow.
const RATE: u32 = 100;
/// Packets that may go missing, per flow.
const MOST: usize = 1;
/// No event may take a flow away for good.
const BOUND: usize = RATE as usize;
const SOON: Duration = Duration::from_secs(120);

/// From pod to pod, both ways, both answered, so that both may be leased.
pub struct Streams([Stream; 2]);

impl Streams {
    /// The ports that they are sent to.
    pub const PORTS: [u16; 2] = [5004, 5005];

    /// Starts them and waits until both flow.
    pub fn start(lab: &Lab) -> Result<Self> {
        let one = |from: &Pod, to: &Pod, port| {
            let address = SocketAddrV4::new(to.ip, port);
            let options = Options { rate: RATE, answered: true, ..Options::default() };
            Stream::start(&from.netns, address, &to.netns, port, &options)
        };
        let (perf, sit) = (lab.perf(), lab.sit());
        let [there, back] = Self::PORTS;
        let streams = Self([one(perf, sit, there)?, one(sit, perf, back)?]);
        streams.flow()?;
        Ok(streams)
    }

    /// Waits until both flow.
    pub fn flow(&self) -> Result<()> {
        for stream in &self.0 {
            ensure!(stream.wait_for(30, SOON), "a stream stands still");
        }
        Ok(())
    }

    /// Ends both; what each of them lost.
    pub fn stop(self) -> Result<(Vec<usize>, u64)> {
        // What happened a moment ago shows in the packets that come now.
        self.flow()?;
        let (mut lost, mut sent) = (Vec::new(), 0);
        for stream in self.0 {
            let report = stream.stop()?;
            ensure!(report.send_error.is_none(), "{:?}", report.send_error);
            lost.push(report.lost.len());
            sent += report.sent;
        }
        Ok((lost, sent))
    }

    /// Ends both, of which each may have lost one packet.
    pub fn lost(self) -> Result<Outcome> {
        let (lost, sent) = self.stop()?;
        ensure!(lost.iter().all(|lost| *lost <= MOST), "{lost:?} of {sent} packets were lost");
        Ok(Outcome::good(format!("{}+{} lost", lost[0], lost[1])))
    }

    /// [`Streams::lost`] of something that makes tunless add or remove `clsact`
    /// qdiscs where programs are attached by filters.
    pub fn lost_with_qdiscs(self, kernel: Kernel) -> Result<Outcome> {
        if kernel.has_tcx() {
            return self.lost();
        }
        self.lost_or(
            "a kernel before 6.6 has no TCX links, and adding or removing a clsact qdisc stops its \
             interface for a moment: more than one packet per flow was lost, as counted, and less \
             than a second's",
        )
    }

    /// [`Streams::lost`], but more may be, if less than a second's, for this reason.
    pub fn lost_or(self, why: &str) -> Result<Outcome> {
        let (lost, sent) = self.stop()?;
        if lost.iter().all(|lost| *lost <= MOST) {
            return Ok(Outcome::good(format!("{}+{} lost", lost[0], lost[1])));
        }
        ensure!(lost.iter().all(|lost| *lost <= BOUND), "{lost:?} of {sent} packets were lost");
        Ok(Outcome::Limited { why: why.to_owned() })
    }
}
