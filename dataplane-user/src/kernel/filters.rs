//! TC filters of others.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use netlink_packet_route::tc::TcAttribute;

use super::{Kernel, explain};

impl Kernel {
    /// The kinds of the filters on both sides of an interface's `clsact` qdisc:
    /// `bpf`, `matchall`, `u32` …
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn filters(&self, ifindex: u32) -> Result<Vec<String>> {
        let index = i32::try_from(ifindex)?;
        let mut kinds = Vec::new();
        for request in [
            self.handle.traffic_filter(index).get().ingress(),
            self.handle.traffic_filter(index).get().egress(),
        ] {
            let mut filters = std::pin::pin!(request.execute());
            while let Some(message) =
                filters.try_next().await.map_err(explain).context("reading filters")?
            {
                kinds.extend(message.attributes.into_iter().find_map(
                    |attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind),
                        _ => None,
                    },
                ));
            }
        }
        Ok(kinds)
    }
}
