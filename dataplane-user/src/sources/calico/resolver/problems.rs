//! What is wrong, and what of that has not been told yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Origin;

/// Problems by the object they are about.
#[derive(Debug, Default)]
pub struct Problems {
    now: BTreeMap<Origin, String>,
    told: BTreeMap<Origin, String>,
    touched: BTreeSet<Origin>,
}

impl Problems {
    /// `origin` has this problem now, or none.
    pub fn set(&mut self, origin: Origin, problem: Option<String>) {
        if self.now.get(&origin) != problem.as_ref() {
            match problem {
                Some(text) => self.now.insert(origin.clone(), text),
                None => self.now.remove(&origin),
            };
            self.touched.insert(origin);
        }
    }

    /// All there are.
    pub fn all(&self) -> Vec<(Origin, String)> {
        self.now.iter().map(|(origin, text)| (origin.clone(), text.clone())).collect()
    }

    /// What is otherwise than when this was last asked.
    pub fn take_changes(&mut self) -> Vec<(Origin, Option<String>)> {
        let mut changes = Vec::new();
        for origin in std::mem::take(&mut self.touched) {
            let now = self.now.get(&origin).cloned();
            let told = match now.clone() {
                Some(text) => self.told.insert(origin.clone(), text),
                None => self.told.remove(&origin),
            };
            if told != now {
                changes.push((origin, now));
            }
        }
        changes
    }
}
