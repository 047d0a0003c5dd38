//! Real etcd, as a datastore of Calico's: Debian's `etcd`, written to by `etcdctl`.
//!
//! On loopback, at an address that no other process's lab has, or on an address of a
//! namespace. Members are killed when the [`Etcd`] is dropped, and by the kernel when
//! the test is.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{calico::Stored, cmd, netns::Netns};

/// How long a member may take to start.
const START: Duration = Duration::from_secs(60);
/// The first port; each member of this process has two of its own.
const PORT: u16 = 12_379;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Files by which members and clients know each other.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Who signed the servers' certificates.
    pub ca: PathBuf,
    /// The server's certificate; `etcdctl` shows it, too.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether clients have to show one that `ca` signed.
    pub ask_clients: bool,
}

/// How etcd is to be; [`EtcdBuilder::start`] starts it.
#[derive(Debug, Clone)]
pub struct EtcdBuilder {
    members: usize,
    place: Option<(Netns, Ipv4Addr)>,
    tls: Option<Tls>,
    options: Vec<String>,
}

/// etcd, of one or more members.
#[derive(Debug)]
pub struct Etcd {
    dir: TempDir,
    builder: EtcdBuilder,
    members: Vec<Member>,
    /// The user that `etcdctl` is, and its password.
    user: Option<(String, String)>,
}

#[derive(Debug)]
struct Member {
    client: String,
    peer: String,
    child: Option<Child>,
}

impl EtcdBuilder {
    /// How many members (1).
    #[must_use]
    pub fn members(mut self, count: usize) -> Self {
        self.members = count;
        self
    }

    /// Inside a namespace, at one of its addresses (on loopback, outside of any).
    #[must_use]
    pub fn at(mut self, netns: &Netns, address: Ipv4Addr) -> Self {
        self.place = Some((netns.clone(), address));
        self
    }

    /// Clients come by TLS (plainly).
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A further option of `etcd`'s, as `--auth-token-ttl=2`.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Starts all members and waits until they serve.
    pub fn start(self) -> Result<Etcd> {
        let address = match &self.place {
            Some((_, address)) => *address,
            None => own_loopback(),
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let members = (0..self.members)
            .map(|_| {
                let port = PORT + 2 * NEXT.fetch_add(1, Ordering::Relaxed);
                Member {
                    client: format!("{scheme}://{address}:{port}"),
                    peer: format!("http://{address}:{}", port + 1),
                    child: None,
                }
            })
            .collect();
        let dir = tempfile::Builder::new().prefix("tunless-etcd-").tempdir()?;
        let mut etcd = Etcd { dir, builder: self, members, user: None };
        for index in 0..etcd.members.len() {
            etcd.spawn(index)?;
        }
        etcd.wait()?;
        Ok(etcd)
    }
}

/// Where etcd outside of any namespace is: 127.64.0.0 and up, by process id.
#[must_use]
pub fn own_loopback() -> Ipv4Addr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, a | 64, b, c)
}

impl Etcd {
    /// One member on loopback, unless told otherwise.
    #[expect(clippy::new_ret_no_self, reason = "`Etcd::new()…start()` reads best where it is used")]
    #[must_use]
    pub fn new() -> EtcdBuilder {
        EtcdBuilder { members: 1, place: None, tls: None, options: Vec::new() }
    }

    /// Where clients connect to, in the order of the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// Writes a key; while the members have no leader, until they have one.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            let written = if value.is_empty() {
                self.ctl(&["put", "--", key, ""])
            } else {
                // By standard input, which takes more than an argument may have.
                self.ctl_with(&["put", "--", key], value)
            };
            let Err(error) = written else { return Ok(()) };
            let said = format!("{error:#}");
            let votes = ["request timed out", "leader changed", "no leader"];
            if !votes.iter().any(|it| said.contains(it)) || Instant::now() > end {
                return Err(error);
            }
        }
    }

    /// Writes an object of Calico's.
    pub fn store(&self, object: &Stored) -> Result<()> {
        self.put(&object.key, &object.value.to_string())
    }

    /// Deletes a key that is there.
    pub fn delete(&self, key: &str) -> Result<()> {
        let deleted = self.ctl(&["del", "--", key])?;
        ensure!(deleted.trim() == "1", "etcdctl deleted {} keys by {key}", deleted.trim());
        Ok(())
    }

    /// Forgets everything but the present.
    pub fn compact(&self) -> Result<()> {
        // A write says which revision it made.
        let revision = self.revision()?;
        self.ctl(&["compact", "--physical", "--", &revision.to_string()]).map(drop)
    }

    /// The revision of the last write.
    pub fn revision(&self) -> Result<u64> {
        let text = self.ctl(&["get", "no-such-key", "-w", "json"])?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        json["header"]["revision"].as_u64().with_context(|| format!("no revision in {text}"))
    }

    /// Demands passwords from now on: makes `root`, and whom `etcdctl` will be.
    pub fn enable_auth(&mut self, root_password: &str) -> Result<()> {
        self.ctl(&["user", "add", &format!("root:{root_password}")])?;
        self.ctl(&["user", "grant-role", "root", "root"])?;
        self.ctl(&["auth", "enable"])?;
        self.user = Some(("root".to_owned(), root_password.to_owned()));
        Ok(())
    }

    /// Makes a user who may read what begins with one of the prefixes.
    pub fn add_reader(&self, name: &str, password: &str, prefixes: &[&str]) -> Result<()> {
        self.ctl(&["role", "add", name])?;
        for prefix in prefixes {
            self.grant_read(name, prefix)?;
        }
        self.ctl(&["user", "add", &format!("{name}:{password}")])?;
        self.ctl(&["user", "grant-role", name, name]).map(drop)
    }

    /// Lets a user read what begins with the prefix.
    pub fn grant_read(&self, name: &str, prefix: &str) -> Result<()> {
        self.ctl(&["role", "grant-permission", name, "--prefix", "read", prefix]).map(drop)
    }

    /// Gives a user another password.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        self.ctl_with(&["user", "passwd", "--interactive=false", name], password).map(drop)
    }

    /// `etcdctl ARGS`.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        self.ctl_with(args, "")
    }

    fn ctl_with(&self, args: &[&str], input: &str) -> Result<String> {
        cmd::check(self.command("etcdctl").args(self.ctl_options()).args(args), input.as_bytes())
    }

    fn ctl_options(&self) -> Vec<String> {
        let running = self.members.iter().filter(|member| member.child.is_some());
        let endpoints: Vec<&str> = running.map(|member| member.client.as_str()).collect();
        let mut options = vec![
            format!("--endpoints={}", endpoints.join(",")),
            "--command-timeout=30s".to_owned(),
        ];
        if let Some(Tls { ca, certificate, key, .. }) = &self.builder.tls {
            options.push(format!("--cacert={}", ca.display()));
            options.push(format!("--cert={}", certificate.display()));
            options.push(format!("--key={}", key.display()));
        }
        if let Some((user, password)) = &self.user {
            options.push(format!("--user={user}:{password}"));
        }
        options
    }

    fn command(&self, program: &str) -> Command {
        let mut command = match &self.builder.place {
            Some((netns, _)) => netns.command("setpriv"),
            None => Command::new("setpriv"),
        };
        command.args(["--pdeathsig", "KILL", program]).env("ETCDCTL_API", "3");
        command
    }

    /// Kills a member as a power failure would.
    pub fn kill9(&mut self, index: usize) -> Result<()> {
        let mut child = self.members[index].child.take().context("the member does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a member again with what it had, and waits until it serves.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.wait()
    }

    /// A member goes silent: its connections stay, nothing is answered.
    pub fn freeze(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGSTOP)
    }

    /// And speaks again.
    pub fn thaw(&self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGCONT)
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let child = self.members[index].child.as_ref().context("the member does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let cluster: Vec<String> =
            (0..).zip(&self.members).map(|(n, member)| format!("m{n}={}", member.peer)).collect();
        let Member { client, peer, .. } = &self.members[index];
        let log = self.log(index);
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = self.command("etcd");
        command
            .arg(format!("--name=m{index}"))
            .arg(format!("--data-dir={}", self.dir.path().join(format!("m{index}")).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .arg(format!("--initial-cluster-token=tunless-{}", self.members[0].peer))
            // A busy machine is no reason to vote.
            .args(["--heartbeat-interval=200", "--election-timeout=2000", "--logger=zap"])
            .args(&self.builder.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(Tls { ca, certificate, key, ask_clients }) = &self.builder.tls {
            command
                .arg(format!("--cert-file={}", certificate.display()))
                .arg(format!("--key-file={}", key.display()));
            if *ask_clients {
                // Named, it is reason enough for etcd to ask.
                command.arg("--client-cert-auth");
                command.arg(format!("--trusted-ca-file={}", ca.display()));
            }
        }
        let child = command.spawn().context("cannot start etcd")?;
        self.members[index].child = Some(child);
        Ok(())
    }

    /// Waits until a write could be made.
    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            for (index, member) in self.members.iter_mut().enumerate() {
                if let Some(child) = &mut member.child
                    && let Some(status) = child.try_wait()?
                {
                    bail!("etcd m{index} ended, {status}: {}", self.log_tail(index));
                }
            }
            // Whether its certificate is a good one is a test's business.
            let mut get = self.command("etcdctl");
            get.args(self.ctl_options()).arg("--insecure-skip-tls-verify").args(["get", "x"]);
            let health = get.output().context("cannot start etcdctl")?;
            // Whoever asks for a password serves.
            let said = String::from_utf8_lossy(&health.stderr);
            if health.status.success() || said.contains("etcdserver: user name is empty") {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("etcd does not serve: {said}\n{}", self.log_tail(0));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("m{index}.log"))
    }

    /// The end of a member's log.
    #[must_use]
    pub fn log_tail(&self, index: usize) -> String {
        let text = std::fs::read_to_string(self.log(index)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
