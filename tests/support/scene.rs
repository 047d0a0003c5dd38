//! A lab whose two nodes run tunless, configured one way or another.

#[path = "scene/again.rs"]
mod again;
#[path = "scene/busy.rs"]
mod busy;
#[path = "scene/counters.rs"]
pub mod counters;
#[path = "scene/examined.rs"]
pub mod examined;
#[path = "scene/hostile.rs"]
pub mod hostile;
#[path = "scene/leased.rs"]
pub mod leased;
#[path = "scene/scraped.rs"]
pub mod scraped;
#[path = "scene/under_systemd.rs"]
pub mod under_systemd;
#[path = "scene/until.rs"]
pub mod until;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde_json::Value;
use tunless_lab::{
    Daemon, Lab, LabBuilder, Netns, Node, Pod,
    traffic::{ping, stream},
};

pub use self::{
    again::{link_pins, restart_all},
    busy::while_the_kernel_is_busy,
    counters::Counters,
    until::{SOON, in_time, until},
};

/// How both nodes are set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// `off`, `trusted` or `verified`.
    pub fastpath: &'static str,
    /// `tc` or `xdp`.
    pub decap: &'static str,
}

impl Setup {
    /// Every combination the tests go through.
    pub const ALL: [Self; 6] = [
        Self { fastpath: "off", decap: "tc" },
        Self { fastpath: "off", decap: "xdp" },
        Self { fastpath: "trusted", decap: "tc" },
        Self { fastpath: "trusted", decap: "xdp" },
        Self { fastpath: "verified", decap: "tc" },
        Self { fastpath: "verified", decap: "xdp" },
    ];

    /// The stack path, unwrapped by TC.
    pub const OFF: Self = Self::ALL[0];
    /// The stack path, unwrapped by XDP.
    pub const OFF_XDP: Self = Self::ALL[1];
    /// The fast path, unwrapped by TC.
    pub const TRUSTED: Self = Self::ALL[2];
    /// The fast path, unwrapped by XDP.
    pub const TRUSTED_XDP: Self = Self::ALL[3];

    /// By leases, unwrapped by TC.
    pub const VERIFIED: Self = Self::ALL[4];
    /// By leases, unwrapped by XDP.
    pub const VERIFIED_XDP: Self = Self::ALL[5];

    /// By leases, unwrapped by TC or by XDP.
    pub const BOTH_VERIFIED: [Self; 2] = [Self::VERIFIED, Self::VERIFIED_XDP];

    /// Whether pods have the fast path without asking.
    pub fn is_trusted(self) -> bool {
        self.fastpath == "trusted"
    }

    /// Whether there are programs at the pods.
    pub fn is_fast(self) -> bool {
        self.fastpath != "off"
    }

    /// Whether XDP unwraps.
    pub fn is_xdp(self) -> bool {
        self.decap == "xdp"
    }

    /// Returns whether a test that goes through [`Setup::ALL`] runs once more after a restart.
    /// With `trusted` a daemon takes over a part of what it takes over with `verified`: the
    /// programs at the pods, and neither leases nor an nft table.
    pub fn is_repeated(self) -> bool {
        !self.is_trusted()
    }

    /// A node's configuration: one route to the other node's block, and `more` lines.
    pub fn config(self, node: &Node, peer: &Node, more: &str) -> String {
        self.config_with(node, &[(peer.block, peer.ip)], more)
    }

    /// A node's configuration with these routes, and `more` lines.
    pub fn config_with(self, node: &Node, routes: &[(&str, Ipv4Addr)], more: &str) -> String {
        let routes: String = routes
            .iter()
            .map(|(cidr, node)| format!("    - {{cidr: {cidr}, node: {node}}}\n"))
            .collect();
        format!(
            "node: {{name: {}, tunnel_address: {}}}\n\
             underlay: {{decap: {}}}\n\
             fastpath: {}\n\
             routes:\n  static:\n{routes}{more}",
            node.name, node.tunnel, self.decap, self.fastpath,
        )
    }
}

/// Lets a daemon compare everything every half second, not every 10 s: it goes
/// round at least twice per watchdog period. For what the kernel announces to
/// nobody, like a removed pin or a path MTU.
pub const HASTY: [(&str, &str); 1] = [("WATCHDOG_USEC", "1000000")];

/// Two nodes with daemons. Daemons go before the lab they are in.
pub struct Scene {
    /// node1.sit's.
    pub daemon1: Daemon,
    /// node2.perf's.
    pub daemon2: Daemon,
    /// The lab.
    pub lab: Lab,
    /// How both daemons are set up.
    pub setup: Setup,
}

impl Scene {
    /// Builds the lab and starts both daemons.
    pub fn new(lab: LabBuilder, setup: Setup) -> Self {
        Self::with(lab, setup, "", &[])
    }

    /// [`Scene::new`] with further lines of configuration and environment variables.
    pub fn with(lab: LabBuilder, setup: Setup, more: &str, environment: &[(&str, &str)]) -> Self {
        // Shown only if the test fails.
        println!("{setup:?}");
        let lab = lab.build().expect("the lab is built");
        let start = |node: &Node, peer: &Node| {
            Daemon::start_with(node, &setup.config(node, peer, more), environment)
                .expect("the daemon starts")
        };
        let daemon1 = start(&lab.node1, &lab.node2);
        let daemon2 = start(&lab.node2, &lab.node1);
        Self { daemon1, daemon2, lab, setup }
    }

    /// Runs a test in every setup; in those that are repeated ([`Setup::is_repeated`]) it runs
    /// again after a restart. Each scene ends by [`Scene::finish`].
    pub fn each(lab: &LabBuilder, test: impl Fn(&mut Self)) {
        Self::each_by(|setup| Self::new(lab.clone(), setup), test);
    }

    /// [`Scene::each`] with scenes that the test makes itself.
    pub fn each_by(scene: impl Fn(Setup) -> Self, test: impl Fn(&mut Self)) {
        for setup in Setup::ALL {
            let mut scene = scene(setup);
            if setup.is_repeated() {
                scene.twice(&test);
            } else {
                test(&mut scene);
            }
            scene.finish();
        }
    }

    /// Runs a test in some setups, in each as [`Scene::case`] does.
    pub fn each_of(setups: &[Setup], lab: &LabBuilder, test: impl Fn(&mut Self)) {
        for setup in setups {
            Self::new(lab.clone(), *setup).case(&test);
        }
    }

    /// Runs a test fresh and after a restart ([`Scene::twice`]), and ends the scene by
    /// [`Scene::finish`].
    pub fn case(mut self, test: impl Fn(&mut Self)) {
        self.twice(test);
        self.finish();
    }

    /// Stops everything. Nothing of it may have been amiss.
    pub fn finish(self) {
        let Self { daemon1, daemon2, lab, setup } = self;
        for daemon in [daemon1, daemon2] {
            daemon.finish().unwrap_or_else(|error| panic!("{setup:?}: {error:#}"));
        }
        assert_eq!(lab.problems(), Vec::<String>::new(), "{setup:?}");
    }

    /// The pods demo-hello-perf (node2) and demo-hello-sit (node1).
    pub fn pods(&self) -> (&Pod, &Pod) {
        (self.lab.perf(), self.lab.sit())
    }

    /// Lets both pods talk until every MAC on the way is known to the programs,
    /// so that from here on every packet takes the way the setup says.
    pub fn warm_up(&self) {
        let (perf, sit) = self.pods();
        assert_answered(&perf.netns, sit.ip);
        for daemon in [&self.daemon1, &self.daemon2] {
            for (list, key) in [("endpoints", "mac"), ("nodes", "next_hop_mac")] {
                daemon
                    .wait_json(&[list, "list"], SOON, |answer| {
                        answer["items"].as_array().is_some_and(|items| {
                            !items.is_empty() && items.iter().all(|item| item[key].is_string())
                        })
                    })
                    .unwrap();
            }
        }
        assert_answered(&perf.netns, sit.ip);
    }

    /// That the fabric saw no packet of a pod un-encapsulated.
    pub fn assert_nothing_plain(&self) {
        assert_eq!(self.lab.plain_packets_on_wire().unwrap(), 0, "{:?}", self.setup);
    }
}

/// The endpoint of a pod, once it is listed: from then on the pod can talk.
pub fn endpoint_of(daemon: &Daemon, pod: &Pod) -> Value {
    until(&format!("{} is listed", pod.cali), SOON, || {
        let answer = daemon.cli_json(&["endpoints", "list"]).unwrap();
        let is_it = |item: &&Value| item["interface"] == pod.cali.as_str();
        answer["items"].as_array().unwrap().iter().find(is_it).cloned()
    })
}

/// That three pings are all answered; what they said.
pub fn assert_answered(from: &Netns, to: Ipv4Addr) -> ping::Report {
    let report = ping::ping(from, to, &ping::Options::default()).unwrap();
    assert!(report.all_answered(), "{}", report.text);
    report
}

/// Whether a single ping is answered; for when it should not be.
pub fn answers(from: &Netns, to: Ipv4Addr) -> bool {
    let wait = Duration::from_millis(500);
    let options = ping::Options { count: 1, wait, ..Default::default() };
    ping::ping(from, to, &options).unwrap().received > 0
}

/// A stream of datagrams from one pod to another.
pub fn stream_between(from: &Pod, to: &Pod, port: u16) -> stream::Stream {
    let address = SocketAddrV4::new(to.ip, port);
    let stream =
        stream::Stream::start(&from.netns, address, &to.netns, port, &Default::default()).unwrap();
    assert!(stream.wait_for(20, SOON), "the stream gets going");
    stream
}

/// That a stream lost nothing, up to now.
pub fn assert_lossless(stream: stream::Stream) {
    lossless(stream);
}

/// Checks that a stream lost nothing, up to now; returns what was sent.
pub fn lossless(stream: stream::Stream) -> stream::Report {
    // What happened a moment ago shows in the packets that come now.
    assert!(stream.wait_for(50, SOON), "the stream stands still");
    let report = stream.stop().unwrap();
    assert_eq!(report.lost, Vec::<u64>::new(), "{report:?}");
    assert_eq!(report.send_error, None);
    report
}
