//! What is wrong with objects, and which of them to report.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::Origin;

/// Where a problem was found. Of several with one object the first is reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Aspect {
    /// The object cannot be read or understood.
    Object,
    /// It contradicts another object, or another one is missing.
    Relation,
    /// The cluster as a whole, or our place in it.
    Cluster,
}

/// Problems by the object they are about.
#[derive(Debug, Default)]
pub struct Problems {
    now: BTreeMap<(Origin, Aspect), String>,
    /// The objects whose problem may be another one since the last report.
    touched: BTreeSet<Origin>,
}

impl Problems {
    /// Notes that `origin` has this problem, or none.
    pub fn set(&mut self, origin: Origin, aspect: Aspect, problem: Option<String>) {
        let key = (origin, aspect);
        if self.now.get(&key) == problem.as_ref() {
            return;
        }
        self.touched.insert(key.0.clone());
        match problem {
            Some(problem) => drop(self.now.insert(key, problem)),
            None => drop(self.now.remove(&key)),
        }
    }

    /// Returns all objects with problems, and the first problem of each.
    pub fn all(&self) -> Vec<(Origin, String)> {
        let mut all: Vec<_> =
            self.now.iter().map(|((origin, _), text)| (origin.clone(), text.clone())).collect();
        all.dedup_by(|next, first| next.0 == first.0);
        all
    }

    /// Returns the problem, or its end, of each object that was touched since the last
    /// call: at least those that differ.
    pub fn take_changes(&mut self) -> Vec<(Origin, Option<String>)> {
        let touched = std::mem::take(&mut self.touched);
        touched.into_iter().map(|origin| (origin.clone(), self.first(origin))).collect()
    }

    fn first(&self, origin: Origin) -> Option<String> {
        let aspects = (origin.clone(), Aspect::Object)..=(origin, Aspect::Cluster);
        self.now.range(aspects).next().map(|(_, text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_problems_with_one_object_the_first_is_reported() {
        let (mut problems, x) = (Problems::default(), Origin::from("x"));
        let text = |text: &str| Some(text.to_owned());
        problems.set(x.clone(), Aspect::Relation, text("has no node"));
        problems.set(x.clone(), Aspect::Object, text("is empty"));
        problems.set("y".into(), Aspect::Cluster, text("is alone"));
        let all = [(x.clone(), "is empty".to_owned()), ("y".into(), "is alone".to_owned())];
        assert_eq!(problems.all(), all);
        assert_eq!(problems.take_changes(), all.map(|(origin, text)| (origin, Some(text))));
        assert_eq!(problems.take_changes(), []);
        problems.set(x.clone(), Aspect::Object, None);
        assert_eq!(problems.take_changes(), [(x.clone(), text("has no node"))]);
        problems.set(x.clone(), Aspect::Relation, None);
        problems.set("y".into(), Aspect::Cluster, text("is alone"));
        assert_eq!(problems.take_changes(), [(x, None)]);
    }
}
