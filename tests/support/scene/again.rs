//! Every case twice in one lab: first with daemons that made everything themselves, then with
//! daemons that were started again.
//!
//! A daemon that is started again works with links, maps, devices and rules that an earlier one
//! made. What it gets wrong there no fresh lab shows.
//!
//! The second run finds the lab as the first one did. [`Scene::twice`] restores:
//!
//! - the configurations, while no daemon runs;
//! - what [`tunless_lab::Lab::forget`] forgets: path MTUs, connections, iptables rules;
//! - leases: none is left.
//!
//! Of the six setups four are repeated ([`Setup::is_repeated`]): those in which a daemon that is
//! started again takes over something else. A test that names its setups repeats all of them.
//!
//! Not repeated are cases with one daemon or none, which are about what a daemon refuses, prints
//! or leaves behind, cases that are themselves about another version or about ten thousand routes
//! (`upgrade`, `source_scale`), and two that say why
//! (`trusted_carries_pods_where_the_operator_insists`,
//! `trusted_is_withheld_while_there_are_rules`).
//!
//! Whatever else a test changes (pods, addresses, devices, routes, sysctls), it puts back at its
//! end. Counters go on, and so does the log: a test compares them with what they were.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use tunless_lab::{Daemon, Node};

use super::Scene;

/// Returns every pinned link of a node with its inode: another inode means that the link was
/// made anew, and that packets met an empty hook meanwhile.
pub fn link_pins(node: &Node) -> BTreeMap<String, u64> {
    // A node that was detached has no such directory, and a daemon at work may just be removing
    // a pin.
    let entries = fs::read_dir(node.bpffs.join("links")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().expect("pins have plain names");
            Some((name, entry.metadata().ok()?.ino()))
        })
        .collect()
}

/// Ends every daemon that still runs: by SIGTERM and by SIGKILL in turn, so that one ends in
/// order and the next has no chance to.
fn end(daemons: &mut [&mut Daemon]) {
    for (number, daemon) in daemons.iter_mut().enumerate() {
        if !daemon.is_running() {
            continue;
        }
        let ended = if number % 2 == 0 { daemon.terminate() } else { daemon.kill9() };
        ended.expect("the daemon ends");
    }
}

/// Ends daemons as [`Scene::twice`] does, all before the first of them starts again.
pub fn restart_all(daemons: &mut [&mut Daemon]) {
    end(daemons);
    println!("after a restart");
    for daemon in daemons {
        daemon.restart().expect("the daemon starts again");
    }
}

impl Scene {
    /// Runs a test, starts both daemons again in the same lab, and runs it once more.
    ///
    /// # Panics
    /// When a daemon does not start again, or does not take over what it finds in place.
    pub fn twice(&mut self, test: impl Fn(&mut Self)) {
        let configs = self.configs();
        test(self);
        self.start_again(&configs);
        println!("{:?}, after a restart", self.setup);
        test(self);
    }

    fn configs(&self) -> [String; 2] {
        let text = |daemon: &Daemon| fs::read_to_string(daemon.config_path());
        [&self.daemon1, &self.daemon2].map(|daemon| text(daemon).expect("a configuration"))
    }

    fn start_again(&mut self, configs: &[String; 2]) {
        let is_changed = self.configs() != *configs;
        let pins = [&self.lab.node1, &self.lab.node2].map(link_pins);
        end(&mut [&mut self.daemon1, &mut self.daemon2]);
        self.lab.forget().expect("the lab is as at first");
        for (daemon, config) in [&mut self.daemon1, &mut self.daemon2].into_iter().zip(configs) {
            if is_changed {
                daemon.rewrite_config(config).expect("the configuration is as at first");
            }
            daemon.restart().expect("the daemon starts again");
            let flushed = daemon.cli(&["leases", "flush"]).expect("tunless starts");
            assert!(flushed.success(), "{}", flushed.stderr);
        }
        // A clsact filter is exchanged at one stroke, too, but its pin is the program's.
        if !is_changed && !configs[1].contains("attach: clsact") {
            for (node, before) in [&self.lab.node1, &self.lab.node2].into_iter().zip(pins) {
                let mut both = link_pins(node);
                both.retain(|pin, inode| before.get(pin).is_some_and(|before| before != inode));
                assert_eq!(both, BTreeMap::new(), "made anew, not taken over in place");
            }
        }
    }
}
