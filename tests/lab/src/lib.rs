//! Two Calico-like nodes in network namespaces, for the demo and the tests.
//!
//! [`Lab::new`] makes nodes, a router between them and pods as Calico's CNI
//! plugin would. [`traffic`] sends through it, [`capture`] looks at the wire,
//! [`inject`] puts hand-made frames on it, [`service`] plays kube-proxy, [`felix`]
//! Calico's agent, [`bird`] runs BIRD, [`etcd`] a datastore with [`calico`]'s objects,
//! [`conntrack`] tells what the kernel remembers, [`scale`] has a large cluster's routes,
//! [`daemon`] runs `tunless`, [`terminal`] runs commands in a terminal, [`systemd`] runs its unit, and [`trace`] tells
//! whether it left anything.
//!
//! It needs root, and a kernel with network namespaces. It knows the `tunless`
//! binary by its command line only: xtask uses this crate before the eBPF
//! toolchain exists.
//!
//! ```no_run
//! use tunless_lab::{Lab, traffic::ping};
//!
//! let lab = Lab::new().fabric_filter(true).build()?;
//! let report = ping::ping(&lab.node2.netns, lab.node1.ip, &ping::Options::default())?;
//! assert_eq!(report.received, report.sent);
//! # anyhow::Ok(())
//! ```

pub mod addr;
pub mod bird;
pub mod bpf;
mod builder;
pub mod calico;
pub mod capture;
pub mod cmd;
mod config_file;
pub mod conntrack;
pub mod container;
pub mod daemon;
pub mod dashboard;
pub mod etcd;
mod fabric;
pub mod felix;
pub mod frame;
pub mod helm;
pub mod identity;
pub mod inject;
mod iptables;
pub mod ipvs;
#[cfg(feature = "kube-api")]
pub mod kube_api;
mod lab;
pub mod netns;
pub mod nfqueue;
pub mod nics;
mod notify;
pub mod packet;
mod packet_socket;
mod pod;
pub mod prometheus;
pub mod qos;
pub mod scale;
#[cfg(feature = "schemas")]
pub mod schemas;
pub mod sent;
pub mod service;
pub mod systemd;
pub mod terminal;
mod topology;
pub mod trace;
pub mod traffic;

pub use builder::LabBuilder;
pub use daemon::Daemon;
pub use etcd::Etcd;
pub use lab::Lab;
pub use netns::Netns;
pub use pod::Pod;
pub use prometheus::Prometheus;
pub use systemd::Systemd;
pub use topology::{Node, RpFilter};
