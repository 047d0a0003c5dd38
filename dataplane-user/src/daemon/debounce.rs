//! Things that come in bursts: gathered for a moment, then answered together.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Gathers into a `T` until a pause has passed since the first thing came.
#[derive(Debug)]
pub struct Debounced<T> {
    pause: Duration,
    due: Option<Instant>,
    gathered: T,
}

impl<T: Default> Debounced<T> {
    /// Nothing has come yet.
    pub fn new(pause: Duration) -> Self {
        Self { pause, due: None, gathered: T::default() }
    }

    /// Adds something. Later ones do not put off the first.
    pub fn add(&mut self, add: impl FnOnce(&mut T)) {
        add(&mut self.gathered);
        let pause = self.pause;
        self.due.get_or_insert_with(|| Instant::now() + pause);
    }

    /// Waits until the pause has passed. For ever if nothing came. Cancel-safe.
    pub async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// All that came; the next thing begins anew.
    pub fn take(&mut self) -> T {
        self.due = None;
        std::mem::take(&mut self.gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(20);

    async fn is_due<T: Default>(debounced: &Debounced<T>) -> bool {
        tokio::time::timeout(Duration::ZERO, debounced.due()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_the_pause_is_one() {
        let mut numbers = Debounced::<Vec<u32>>::new(PAUSE);
        tokio::time::sleep(PAUSE).await;
        assert!(!is_due(&numbers).await, "nothing came");
        numbers.add(|all| all.push(1));
        tokio::time::sleep(PAUSE / 2).await;
        numbers.add(|all| all.push(2));
        assert!(!is_due(&numbers).await);
        tokio::time::sleep(PAUSE / 2).await;
        assert!(is_due(&numbers).await, "the second did not put off the first");
        numbers.add(|all| all.push(3));
        assert_eq!(numbers.take(), [1, 2, 3]);
        assert!(!is_due(&numbers).await);
        numbers.add(|all| all.push(4));
        tokio::time::sleep(PAUSE).await;
        assert!(is_due(&numbers).await);
        assert_eq!(numbers.take(), [4]);
    }
}
