//! systemd's side of `sd_notify`: hear when the daemon is ready.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

const TICK: Duration = Duration::from_millis(20);

/// The socket that `NOTIFY_SOCKET` names.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
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
        let path = path.to_owned();
        Ok(Self { socket, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was said so far.
    pub fn forget(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.message()?.is_some() {}
        self.socket
            .set_nonblocking(false)
            .context("cannot make the socket blocking")
    }

    /// Waits until the daemon says `wanted` (`READY=1`). `alive` is asked all
    /// the time, so that a daemon that ended is not waited for.
    pub fn wait_for(
        &self,
        wanted: &str,
        timeout: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let end = Instant::now() + timeout;
        let mut heard = String::new();
        loop {
            match self.message()? {
                Some(text) if text.lines().any(|line| line == wanted) => return Ok(()),
                Some(text) => heard.push_str(&text),
                None => alive()?,
            }
            if Instant::now() > end {
                bail!("no {wanted} within {timeout:?}; it said: {heard:?}");
            }
        }
    }

    fn message(&self) -> Result<Option<String>> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(len) => Ok(Some(
                String::from_utf8_lossy(&buffer[..len]).into_owned() + "\n",
            )),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error).context("cannot read the notify socket"),
            },
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
        daemon
            .send_to(b"STATUS=syncing\nREADY=1", notify.path())
            .unwrap();
        notify
            .wait_for("READY=1", Duration::from_secs(5), || Ok(()))
            .unwrap();
        daemon.send_to(b"READY=1", notify.path()).unwrap();
        notify.forget().unwrap();
        let error = notify.wait_for("READY=1", Duration::from_millis(50), || Ok(()));
        assert!(error.unwrap_err().to_string().contains("no READY=1"));
        let gone = notify.wait_for("READY=1", Duration::from_secs(5), || bail!("it ended"));
        assert_eq!(gone.unwrap_err().to_string(), "it ended");
    }
}
