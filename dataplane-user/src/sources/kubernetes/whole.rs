//! Which objects have to be read whole, because their metadata does not say all.
//!
//! Kubelets rewrite their Node every five minutes at least, and a Node is some 30 KB. Where only a
//! few nodes lack Calico's annotation each event of theirs is followed; where all do, an object is
//! read again about once an hour. So an `InternalIP` that changes while its Node stays may be
//! noticed that late; a Node that was made anew is read at once, because the old one was deleted.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// How often one of many objects is read again; at most a quarter more.
const AGAIN: Duration = Duration::from_secs(3600);

/// The objects that were read whole.
#[derive(Default, Debug)]
pub struct Whole {
    /// When each is to be read again.
    due: HashMap<String, Instant>,
    /// How many there were in the last list.
    expected: usize,
}

impl Whole {
    /// So many are asked for by name, each time they change.
    pub const FEW: usize = 50;

    /// Notes how many the last list had.
    pub fn expect(&mut self, count: usize) {
        self.expected = count;
    }

    /// Notes that an object was read.
    pub fn read(&mut self, name: &str, now: Instant) {
        let again = AGAIN + (AGAIN / 4).mul_f64(fastrand::f64());
        self.due.insert(name.to_owned(), now + again);
    }

    /// Notes that these were read, and no others are there.
    pub fn read_all<'n>(&mut self, names: impl Iterator<Item = &'n str>, now: Instant) {
        self.due.clear();
        names.for_each(|name| self.read(name, now));
    }

    /// Notes that an object is gone, or that its metadata says all.
    pub fn forget(&mut self, name: &str) {
        self.due.remove(name);
    }

    /// Returns whether an object that has changed has to be read.
    pub fn is_due(&self, name: &str, now: Instant) -> bool {
        let many = self.due.len().max(self.expected) > Self::FEW;
        !many || self.due.get(name).is_none_or(|due| now >= *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_each_is_read_about_once_an_hour() {
        let now = Instant::now();
        let names: Vec<String> = (0..=Whole::FEW).map(|n| format!("node-{n}")).collect();
        let mut whole = Whole::default();
        whole.read_all(names.iter().map(String::as_str), now);
        whole.expect(names.len());
        assert!(!whole.is_due("node-7", now + AGAIN - Duration::from_secs(1)));
        assert!(whole.is_due("node-7", now + AGAIN + AGAIN / 4));
        assert!(whole.is_due("new", now));
        whole.forget("node-7");
        assert!(whole.is_due("node-7", now));
    }

    #[test]
    fn of_a_few_each_is_read_when_it_changes() {
        let now = Instant::now();
        let mut whole = Whole::default();
        whole.expect(1);
        whole.read("node-7", now);
        assert!(whole.is_due("node-7", now));
    }
}
