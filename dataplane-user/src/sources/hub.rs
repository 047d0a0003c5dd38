//! The tasks of the sources that run, and the channel they report into.

use std::collections::BTreeMap;

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::{Me, Report, Reporter, SourceKind, claims::is_configured};
use crate::config::SourcesConfig;

/// What the sources report, in the order they reported it.
pub type Reports = UnboundedReceiver<(SourceKind, Report)>;

/// Runs sources. What they report is for [`Claims`](super::claims::Claims).
pub struct Hub {
    running: BTreeMap<SourceKind, Running>,
    sender: UnboundedSender<(SourceKind, Report)>,
}

/// A source's task; ends when dropped.
struct Running {
    /// What it was started with.
    config: SourcesConfig,
    me: Me,
    /// `None` for a source that the daemon reads itself, or that cannot run.
    task: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Hub {
    /// Runs nothing yet.
    #[must_use]
    pub fn new() -> (Self, Reports) {
        let (sender, reports) = unbounded_channel();
        (Self { running: BTreeMap::new(), sender }, reports)
    }

    /// Starts and stops sources as the file configures them. A source goes on if neither its
    /// part of the file nor what it has to know of this node changed.
    pub fn run(&mut self, config: &SourcesConfig, me: &Me) {
        for kind in SourceKind::ALL {
            if is_configured(kind, config) {
                self.start(kind, only(kind, config), only_for(kind, me));
            } else {
                self.running.remove(&kind);
            }
        }
    }

    fn start(&mut self, kind: SourceKind, config: SourcesConfig, me: Me) {
        let before = self.running.get(&kind);
        if before.is_some_and(|running| running.config == config && running.me == me) {
            return;
        }
        // The old task ends before the new one reports.
        self.running.remove(&kind);
        let reporter = Reporter::new(kind, self.sender.clone());
        let task = super::spawn(kind, &config, me.clone(), reporter);
        self.running.insert(kind, Running { config, me, task });
    }
}

/// What a source has to know of this node: only BIRD's routes do not name their own node.
fn only_for(kind: SourceKind, me: &Me) -> Me {
    Me { address: me.address.filter(|_| kind == SourceKind::Bird), ..me.clone() }
}

/// What a source has to be started again for when it changes.
fn only(kind: SourceKind, config: &SourcesConfig) -> SourcesConfig {
    let SourcesConfig { precedence: _, kernel, bird, etcd, kubernetes } = config.clone();
    SourcesConfig {
        precedence: Vec::new(),
        kernel: kernel.filter(|_| kind == SourceKind::Kernel),
        bird: bird.filter(|_| kind == SourceKind::Bird),
        etcd: etcd.filter(|_| kind == SourceKind::Etcd),
        kubernetes: kubernetes.filter(|_| kind == SourceKind::Kubernetes),
    }
}
