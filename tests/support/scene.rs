//! A lab whose two nodes run tunless, configured one way or another.

use tunless_lab::{Daemon, Lab, LabBuilder, Node};

/// How both nodes are set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// `off` or `trusted`.
    pub fastpath: &'static str,
    /// `tc` or `xdp`.
    pub decap: &'static str,
}

impl Setup {
    /// Every combination the tests go through.
    pub const ALL: [Self; 4] = [
        Self { fastpath: "off", decap: "tc" },
        Self { fastpath: "off", decap: "xdp" },
        Self { fastpath: "trusted", decap: "tc" },
        Self { fastpath: "trusted", decap: "xdp" },
    ];

    /// The stack path, unwrapped by TC.
    pub const OFF: Self = Self::ALL[0];
    /// The fast path, unwrapped by TC.
    pub const TRUSTED: Self = Self::ALL[2];

    /// A node's configuration: one route to the other node's block, and `more` lines.
    pub fn config(self, node: &Node, peer: &Node, more: &str) -> String {
        format!(
            "node: {{name: {}, tunnel_address: {}}}\n\
             underlay: {{decap: {}}}\n\
             fastpath: {}\n\
             routes:\n  static:\n    - {{cidr: {}, node: {}}}\n{more}",
            node.name, node.tunnel, self.decap, self.fastpath, peer.block, peer.ip,
        )
    }
}

/// Two nodes with daemons. Daemons go before the lab they are in.
pub struct Scene {
    /// node1.sit's.
    pub daemon1: Daemon,
    /// node2.perf's.
    pub daemon2: Daemon,
    /// The lab.
    pub lab: Lab,
}

impl Scene {
    /// Builds the lab and starts both daemons.
    pub fn new(lab: LabBuilder, setup: Setup) -> Self {
        let lab = lab.build().expect("the lab is built");
        let start = |node: &Node, peer: &Node| {
            Daemon::start(node, &setup.config(node, peer, "")).expect("the daemon starts")
        };
        let daemon1 = start(&lab.node1, &lab.node2);
        let daemon2 = start(&lab.node2, &lab.node1);
        Self { daemon1, daemon2, lab }
    }
}
