//! Which CPUs go on with what receive queues bring.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Table;
use crate::kernel::receive_queues::{Cpus, Queue};

/// Queues whose RPS is decided: all of them, as they were just found.
pub struct ReceiveQueues<'a>(pub &'a BTreeMap<Queue, Cpus>);

impl Table for ReceiveQueues<'_> {
    type Key = Queue;
    type Value = Cpus;
    const NAME: &'static str = "receive queue";

    fn describe(&self, queue: &Queue, new: Option<&Cpus>) -> String {
        match new {
            Some(cpus) if !cpus.is_empty() => {
                format!("spreading packets of {queue} over CPUs {}", cpus.ranges())
            }
            _ => format!("leaving packets of {queue} to the CPU that it interrupts"),
        }
    }

    async fn actual(&mut self) -> Result<BTreeMap<Queue, Cpus>> {
        let mut actual = BTreeMap::new();
        for queue in self.0.keys() {
            if let Some(cpus) = queue.read()? {
                actual.insert(queue.clone(), cpus);
            }
        }
        Ok(actual)
    }

    async fn upsert(&mut self, queue: &Queue, cpus: &Cpus) -> Result<()> {
        queue.write(cpus)
    }

    /// Never asked for: a queue cannot be removed.
    async fn delete(&mut self, _: &Queue) -> Result<()> {
        Ok(())
    }
}
