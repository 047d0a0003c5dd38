//! TC filters on a `clsact` qdisc, ours and others'.

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use dataplane_common::IfIndex;
use futures::TryStreamExt as _;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Kernel, errno, explain};

/// A filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// On which side.
    pub direction: TcAttachType,
    /// `bpf`, `matchall`, `u32` …
    pub kind: String,
    /// Lower ones come first.
    pub priority: u16,
    /// Its number among those of its priority.
    pub handle: u32,
    /// The program of a `bpf` filter.
    pub program_id: Option<u32>,
    /// What its maker called it.
    pub name: Option<String>,
}

impl Kernel {
    /// The filters on both sides of an interface's `clsact` qdisc; none if there
    /// is no such qdisc.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn filters(&self, ifindex: IfIndex) -> Result<Vec<Filter>> {
        let index = i32::try_from(ifindex.0)?;
        let mut found = Vec::new();
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let request = self.handle.traffic_filter(index).get();
            let request = match direction {
                TcAttachType::Egress => request.egress(),
                _ => request.ingress(),
            };
            let mut filters = std::pin::pin!(request.execute());
            loop {
                match filters.try_next().await {
                    Ok(Some(message)) => found.extend(filter(&message, direction)),
                    Ok(None) => break,
                    // No clsact there.
                    Err(error) if errno(&error) == Some(libc::EINVAL) => break,
                    Err(error) => return Err(explain(error)).context("reading filters"),
                }
            }
        }
        Ok(found)
    }

    /// Removes an interface's `clsact` qdisc, and with it every filter; that there
    /// is none is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_clsact(&self, ifindex: IfIndex) -> Result<()> {
        let mut request = self.handle.qdisc().del(i32::try_from(ifindex.0)?);
        request.message_mut().header.parent = TcHandle::CLSACT;
        match request.execute().await {
            Err(error)
                if !matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
            {
                Err(explain(error)).context("removing the clsact qdisc")
            }
            _ => Ok(()),
        }
    }
}

/// Chains themselves, of which the dump tells too, have no handle.
fn filter(message: &TcMessage, direction: TcAttachType) -> Option<Filter> {
    let handle = message.header.handle;
    let mut filter = Filter {
        direction,
        kind: String::new(),
        priority: (message.header.info >> 16) as u16,
        handle: u32::from(handle.major) << 16 | u32::from(handle.minor),
        program_id: None,
        name: None,
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => {
                            filter.program_id = Some(*id);
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                            filter.name = Some(name.clone());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (filter.handle != 0).then_some(filter)
}
