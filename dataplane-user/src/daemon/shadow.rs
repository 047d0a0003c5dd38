//! `mode: shadow` in the daemon's life.

use super::Daemon;

impl Daemon {
    /// Whether programs only look.
    pub(super) fn is_shadow(&self) -> bool {
        self.decider.last().is_some_and(|last| last.desired.shadow.is_some())
    }

    /// The last look, and the end: what only looks has no use without its daemon.
    pub(super) async fn end_shadow(&mut self) {
        self.watch_shadow().await;
        if let Some(applier) = &mut self.applier {
            let (kernel, host) = (self.observer.kernel(), self.observer.host());
            if let Err(error) = applier.end_shadow(kernel, host).await {
                tracing::warn!("{error:#}");
            }
        }
    }

    /// Brings the report up to date.
    pub(super) async fn watch_shadow(&mut self) {
        let (Some(applier), Some(last)) = (&mut self.applier, self.decider.last()) else { return };
        if let Err(error) = applier.watch_shadow(self.observer.host(), &last.desired).await {
            tracing::warn!("the report of `mode: shadow` is not complete: {error:#}");
        }
    }
}
