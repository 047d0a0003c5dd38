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
    /// `bird`: the control socket of its BIRD, if there is one.
    pub fn config(self, node: &Node, peer: &Node, bird: Option<&Path>) -> String {
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
            routes(peer, bird)
        )
    }
}

fn routes(peer: &Node, bird: Option<&Path>) -> String {
    match bird {
        Some(socket) => format!("sources:\n  bird: {{socket: {}}}\n", socket.display()),
        None => format!(
            "routes:\n  \
               static:\n    \
                 - {{cidr: {}, node: {}}}   # {}\n",
            peer.block, peer.ip, peer.name
        ),
    }
}
