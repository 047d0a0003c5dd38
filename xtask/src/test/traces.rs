//! What a run may not leave behind on the machine.
//!
//! Tests make things only in namespaces of their labs, and everything of a lab bears the lab's
//! id ([`tunless_lab::identity`]). So names decide: what another instance of tunless, another
//! user of the BPF file system or a container engine makes meanwhile is not ours. Nor is the
//! lab of a process that still runs: when the suites have ended it belongs to another run.

use std::collections::BTreeSet;

use tunless_lab::identity::{LabId, Place};

use super::outcome::Outcome;

/// Things of labs on this machine, each in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks into every place where labs leave something.
    pub fn find() -> Self {
        let names = Place::ALL
            .into_iter()
            .flat_map(|place| place.names().into_iter().map(move |name| (place, name)));
        Self::among(names, LabId::owner_is_alive)
    }

    /// Picks out of `names` those of labs whose process has ended.
    fn among(
        names: impl IntoIterator<Item = (Place, String)>,
        is_alive: impl Fn(&LabId) -> bool,
    ) -> Self {
        let of_the_dead =
            |(place, name): &(Place, String)| place.lab_of(name).is_some_and(|lab| !is_alive(&lab));
        let in_words =
            |(place, name): (Place, String)| format!("{} {}/{name}", place.what, place.dir);
        Self(names.into_iter().filter(of_the_dead).map(in_words).collect())
    }

    /// Prints what an earlier run or `demo --keep` left: it may explain a failure.
    pub fn mention(&self) {
        for trace in &self.0 {
            println!("note: {trace} is there already, from a kept demo or a run that was killed");
        }
    }

    /// Returns one case: nothing is here that was not `before`.
    pub fn left_since(&self, before: &Self) -> Outcome {
        let mut outcome = Outcome::default();
        for trace in self.0.difference(&before.0) {
            outcome.fail(format!("{trace} was left behind"));
        }
        if outcome.failed == 0 {
            outcome.passed = 1;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The process of the labs `tl7x…` has ended, that of `tl8x…` has not.
    fn found(names: &[(&str, &str)]) -> Traces {
        let place = |dir: &str| Place::ALL.into_iter().find(|place| place.dir == dir).unwrap();
        let names = names.iter().map(|(dir, name)| (place(dir), (*name).to_owned()));
        Traces::among(names, |lab| lab.as_str().starts_with("tl8x"))
    }

    #[test]
    fn every_kind_of_the_tests_own_is_a_failure() {
        for (dir, name) in [
            ("/run/netns", "tl7x1-node1"),
            ("/run/netns", "tl7x12-demo-hello-perf"),
            ("/run/tunless-lab", "tl7x1"),
            ("/sys/fs/bpf", "tunless-lab-tl7x1-node2"),
            ("/run/tunless", "sys%2Ffs%2Fbpf%2Ftunless-lab-tl7x1-node2.lock"),
            ("/run/tunless", "sys%2Ffs%2Fbpf%2Ftunless-lab-tl7x1-node2.json"),
            ("/sys/fs/cgroup", "tunless-lab-tl7x1-node2"),
        ] {
            let left = found(&[(dir, name)]).left_since(&Traces::default());
            assert_eq!((left.passed, left.failed), (0, 1), "{dir}/{name}");
            assert!(left.failures[0].ends_with(&format!("{dir}/{name} was left behind")));
        }
    }

    #[test]
    fn what_others_make_meanwhile_is_not() {
        let clean = found(&[
            // Another instance of tunless on this machine.
            ("/sys/fs/bpf", "tunless"),
            ("/run/tunless", "sys%2Ffs%2Fbpf%2Ftunless.lock"),
            ("/sys/fs/bpf", "tunless-lab"),
            // Other users of the BPF file system, one with a name like a lab's.
            ("/sys/fs/bpf", "cilium"),
            ("/sys/fs/bpf", "tl7x1-node1"),
            // systemd's own control groups.
            ("/sys/fs/cgroup", "system.slice"),
            // A container engine's namespaces, and a person's.
            ("/run/netns", "cni-7f0c1a52-93bb-41c0-8f0e-0f5b6f2d5a31"),
            ("/run/netns", "tl"),
            ("/run/netns", "tlab-7"),
            ("/run/netns", "tl7-node1"),
            // Another run of these tests, at work.
            ("/run/netns", "tl8x1-node1"),
            ("/run/tunless-lab", "tl8x1"),
            ("/sys/fs/bpf", "tunless-lab-tl8x1-node1"),
            ("/run/tunless", "sys%2Ffs%2Fbpf%2Ftunless-lab-tl8x1-node1.lock"),
        ]);
        assert_eq!(clean, Traces::default());
        let outcome = clean.left_since(&Traces::default());
        assert_eq!((outcome.passed, outcome.failed), (1, 0));
    }

    #[test]
    fn only_what_is_new_counts() {
        let before = found(&[("/run/netns", "tl7x1-node1"), ("/run/netns", "tl7x1-node2")]);
        let now = found(&[("/run/netns", "tl7x1-node1")]);
        assert_eq!((now.left_since(&before).passed, now.left_since(&before).failed), (1, 0));
        let more = found(&[("/run/netns", "tl7x1-node1"), ("/run/netns", "tl7x2-node1")]);
        let left = more.left_since(&before);
        assert_eq!(left.failures, ["network namespace /run/netns/tl7x2-node1 was left behind"]);
    }
}
