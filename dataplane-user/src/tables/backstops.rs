//! What catches pods' packets should the tunnel device vanish.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{Table, set_or_remove};
use crate::kernel::{Host, Kernel, PROTOCOL};

/// `unreachable` routes with our protocol number, behind those of the tunnel device.
pub struct Backstops<'a> {
    kernel: &'a Kernel,
    present: BTreeMap<Ipv4Net, ()>,
}

impl<'a> Backstops<'a> {
    /// As the last look found them.
    #[must_use]
    pub fn new(kernel: &'a Kernel, host: &Host) -> Self {
        let ours =
            host.routes.iter().filter(|route| route.protocol == PROTOCOL && route.is_unreachable);
        Self { kernel, present: ours.map(|route| (route.destination, ())).collect() }
    }

    /// As we left them, without another look.
    #[must_use]
    pub fn left(kernel: &'a Kernel, present: BTreeMap<Ipv4Net, ()>) -> Self {
        Self { kernel, present }
    }
}

impl Table for Backstops<'_> {
    type Key = Ipv4Net;
    type Value = ();
    const NAME: &'static str = "backstop";

    fn describe(&self, prefix: &Ipv4Net, new: Option<&()>) -> String {
        set_or_remove(new, &format!("the unreachable route to {prefix}"))
    }

    async fn actual(&mut self) -> Result<BTreeMap<Ipv4Net, ()>> {
        Ok(self.present.clone())
    }

    async fn upsert(&mut self, prefix: &Ipv4Net, (): &()) -> Result<()> {
        self.kernel.add_backstop(*prefix).await
    }

    async fn delete(&mut self, prefix: &Ipv4Net) -> Result<()> {
        self.kernel.delete_backstop(*prefix).await
    }
}
