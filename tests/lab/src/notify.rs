//! systemd's side of `sd_notify`: hear when the daemon is ready.
//!
//! A thread reads all the time, as systemd does: a Unix socket queues about ten
//! datagrams, and a daemon that reports its status would block on the next.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

const TICK: Duration = Duration::from_millis(20);

/// What [`NotifySocket::forget`] sends to itself.
const MARK: &str = "X_LAB_MARK=1";

/// The socket that `NOTIFY_SOCKET` names.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
    messages: Receiver<String>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NotifySocket {
    pub fn bind(path: &Path) -> Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let socket =
            UnixDatagram::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
        socket.set_read_timeout(Some(TICK))?;
        let (sender, messages) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self {
            path: path.to_owned(),
            messages,
            stop,
            thread: Some(thread::spawn(move || read(&socket, &sender, &stopped))),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was said so far, also what lies in the socket unread: a
    /// mark goes the same way, and everything before it is thrown away.
    pub fn forget(&self) -> Result<()> {
        let mark =
            UnixDatagram::unbound().and_then(|from| from.send_to(MARK.as_bytes(), &self.path));
        mark.context("cannot write to the notify socket")?;
        self.wait_for(MARK, Duration::from_secs(10), || Ok(())).map(drop)
    }

    /// Waits until the daemon says `wanted` (`READY=1`), and returns all that it
    /// said in the same breath. `alive` is asked all the time, so that a daemon
    /// that ended is not waited for.
    pub fn wait_for(
        &self,
        wanted: &str,
        timeout: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<String> {
        let end = Instant::now() + timeout;
        let mut heard = String::new();
        loop {
            match self.messages.recv_timeout(TICK) {
                Ok(text) if text.lines().any(|line| line == wanted) => return Ok(text),
                Ok(text) => heard.push_str(&text),
                Err(_) => alive()?,
            }
            if Instant::now() > end {
                bail!("no {wanted} within {timeout:?}; it said: {heard:?}");
            }
        }
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(socket: &UnixDatagram, messages: &Sender<String>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        // A timeout only means: look whether to stop.
        let Ok(len) = socket.recv(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned() + "\n";
        if messages.send(text).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_heard_among_other_things() {
        let dir = tempfile::tempdir().unwrap();
        let notify = NotifySocket::bind(&dir.path().join("s")).unwrap();
        let daemon = UnixDatagram::unbound().unwrap();
        daemon.send_to(b"STATUS=syncing\nREADY=1", notify.path()).unwrap();
        let said = notify.wait_for("READY=1", Duration::from_secs(5), || Ok(())).unwrap();
        assert_eq!(said, "STATUS=syncing\nREADY=1\n");
        for _ in 0..1000 {
            // More than a socket queues: nobody waits, and it still does not block.
            daemon.send_to(b"READY=1", notify.path()).unwrap();
        }
        notify.forget().unwrap();
        let error = notify.wait_for("READY=1", Duration::from_millis(50), || Ok(()));
        assert!(error.unwrap_err().to_string().contains("no READY=1"));
        let gone = notify.wait_for("READY=1", Duration::from_secs(5), || bail!("it ended"));
        assert_eq!(gone.unwrap_err().to_string(), "it ended");
    }
}
