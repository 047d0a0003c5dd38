//! Notices that the file was saved: in place, by rename, or by a swapped
//! symlink directory (as Kubernetes updates a `ConfigMap`).
//!
//! So it is the directories that are watched, and what counts is whether the
//! text differs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, timeout_at},
};

/// Quiet for so long means that the editor is done.
const SETTLE: Duration = Duration::from_millis(100);

/// Watches one file.
pub struct ConfigWatch {
    path: PathBuf,
    text: Option<String>,
    watched: BTreeSet<PathBuf>,
    watcher: RecommendedWatcher,
    events: UnboundedReceiver<()>,
    /// When it will have been quiet for long enough, if anything happened.
    quiet_at: Option<Instant>,
}

impl ConfigWatch {
    /// Watches from now on a file that said `text` when it was read.
    ///
    /// # Errors
    /// If inotify has no watch left.
    pub fn new(path: &Path, text: &str) -> Result<Self> {
        let (sender, events) = unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is no change.
            if !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_))) {
                let _ = sender.send(());
            }
        })
        .context("watching the configuration")?;
        let text = Some(text.to_owned());
        let mut watch = Self {
            path: path.to_owned(),
            text,
            watched: BTreeSet::new(),
            watcher,
            events,
            quiet_at: None,
        };
        watch.follow()?;
        Ok(watch)
    }

    /// Waits until something happened in a watched directory and it is quiet again.
    /// Whoever stops waiting half-way, because something else woke him, goes on
    /// next time where he stopped: nothing that happened is forgotten.
    pub async fn changed(&mut self) {
        loop {
            // The sender lives as long as the watcher: there is always another event.
            match self.quiet_at {
                None => drop(self.events.recv().await),
                Some(at) => {
                    if timeout_at(at, self.events.recv()).await.is_err() {
                        self.quiet_at = None;
                        return;
                    }
                }
            }
            self.quiet_at = Some(Instant::now() + SETTLE);
        }
    }

    /// Whether the file says something else than when last asked.
    pub fn changed_text(&mut self) -> bool {
        if let Err(error) = self.follow() {
            tracing::warn!("{error:#}");
        }
        let text = fs::read_to_string(&self.path).ok();
        let changed = text != self.text;
        self.text = text;
        changed
    }

    /// Watches the directory of the file and of whatever it is a symlink to.
    fn follow(&mut self) -> Result<()> {
        let directory = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut wanted = BTreeSet::from([directory(&self.path)]);
        wanted.extend(fs::canonicalize(&self.path).ok().map(|real| directory(&real)));
        for gone in self.watched.difference(&wanted) {
            let _ = self.watcher.unwatch(gone);
        }
        self.watched.retain(|path| wanted.contains(path));
        for new in wanted.difference(&self.watched.clone()) {
            self.watcher
                .watch(new, RecursiveMode::NonRecursive)
                .with_context(|| format!("watching {}", new.display()))?;
            self.watched.insert(new.clone());
        }
        Ok(())
    }
}
