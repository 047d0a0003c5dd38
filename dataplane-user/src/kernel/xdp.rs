//! XDP programs on interfaces, ours and others'.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use dataplane_common::IfIndex;
use futures::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkXdp};

use super::{Kernel, explain};

impl Kernel {
    /// Returns the numbers of the XDP programs on each interface that has any: one, or several in
    /// different places (driver, hardware, generic).
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn xdp_programs(&self) -> Result<BTreeMap<IfIndex, Vec<u32>>> {
        let mut found = BTreeMap::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(message) =
            links.try_next().await.map_err(explain).context("reading interfaces")?
        {
            let programs = programs(&message.attributes);
            if !programs.is_empty() {
                found.insert(IfIndex(message.header.index), programs);
            }
        }
        Ok(found)
    }
}

fn programs(attributes: &[LinkAttribute]) -> Vec<u32> {
    let mut programs = Vec::new();
    for attribute in attributes {
        let LinkAttribute::Xdp(xdp) = attribute else { continue };
        // The kernel names one by itself where there is but one, and again by its place.
        programs.extend(xdp.iter().filter_map(|it| match it {
            LinkXdp::ProgId(id)
            | LinkXdp::DrvProgId(id)
            | LinkXdp::SkbProgId(id)
            | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        }));
    }
    programs.retain(|id| *id != 0);
    programs.sort_unstable();
    programs.dedup();
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_named_once() {
        let xdp =
            |xdp: Vec<LinkXdp>| programs(&[LinkAttribute::Mtu(1500), LinkAttribute::Xdp(xdp)]);
        assert_eq!(xdp(vec![LinkXdp::Flags(0)]), Vec::<u32>::new());
        assert_eq!(xdp(vec![LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)]), [7]);
        assert_eq!(xdp(vec![LinkXdp::SkbProgId(9), LinkXdp::DrvProgId(7)]), [7, 9]);
    }
}
