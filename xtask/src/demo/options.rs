//! What of tunless the demo shows.

use std::path::Path;

use clap::ValueEnum;
use tunless_lab::Node;

/// Which way packets take through a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fastpath {
    /// Through the kernel's stack: network policies and services work.
    Off,
    /// Past it: faster, for clusters without either.
    Trusted,
    /// Past it as long as netfilter agrees, which is asked every few seconds.
    Verified,
}

/// Where arriving packets are unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decap {
    /// Where the interface does it best.
    Auto,
    /// At TC, with any interface.
    Tc,
    /// At XDP, before the kernel makes a packet of it.
    Xdp,
}

/// Where tunless learns the other node's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// From its configuration file.
    File,
    /// From BIRD, which runs on both nodes and speaks BGP.
    Bird,
    /// From Calico's keys in etcd, which runs on the router.
    Etcd,
}

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which way packets take through a node.
    pub fastpath: Fastpath,
    /// Where arriving packets are unwrapped.
    pub decap: Decap,
    /// Where tunless learns the other node's block.
    pub source: Source,
}

impl Options {
    /// Whether netfilter is passed by.
    pub fn is_trusted(self) -> bool {
        self.fastpath == Fastpath::Trusted
    }

    /// The configuration of a node: all that tunless cannot find out by itself.
    pub fn config(self, node: &Node, peer: &Node, origin: &Origin<'_>) -> String {
        let fastpath = match self.fastpath {
            Fastpath::Off => "off",
            Fastpath::Trusted => "trusted",
            Fastpath::Verified => "verified",
        };
        let decap = match self.decap {
            Decap::Auto => "auto",
            Decap::Tc => "tc",
            Decap::Xdp => "xdp",
        };
        let Node { name, tunnel, .. } = node;
        format!(
            "node: {{name: {name}, tunnel_address: {tunnel}}}\n\
             underlay: {{decap: {decap}}}\n\
             fastpath: {fastpath}\n{}",
            routes(peer, origin)
        )
    }
}

/// Where a node's tunless finds its source.
#[derive(Debug)]
pub enum Origin<'a> {
    /// In the configuration itself.
    File,
    /// At the control socket of the node's BIRD.
    Bird(&'a Path),
    /// At these endpoints.
    Etcd(&'a [String]),
}

fn routes(peer: &Node, origin: &Origin<'_>) -> String {
    match origin {
        Origin::Bird(socket) => format!("sources:\n  bird: {{socket: {}}}\n", socket.display()),
        Origin::Etcd(endpoints) => format!("sources:\n  etcd: {{endpoints: {endpoints:?}}}\n"),
        Origin::File => format!(
            "routes:\n  \
               static:\n    \
                 - {{cidr: {}, node: {}}}   # {}\n",
            peer.block, peer.ip, peer.name
        ),
    }
}
