//! What no package can mend, looked at before anything is changed.

use std::{
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};

/// Fails with the one thing to do about it.
pub fn run() -> Result<()> {
    root()?;
    network_namespaces()?;
    rustup()
}

/// Fails unless we are root.
pub fn root() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "not root: packages, network namespaces and eBPF programs need it; run this again as \
         root, for example with `sudo -E env \"PATH=$PATH\" cargo xtask …`"
    );
    Ok(())
}

fn network_namespaces() -> Result<()> {
    // In a thread of its own: the others stay where they are.
    thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .map_err(|_| anyhow!("the thread that tries a network namespace panicked"))?
        .context(
            "no network namespace can be made here: run on a machine of its own or in a \
             privileged container (CAP_SYS_ADMIN and a kernel with CONFIG_NET_NS)",
        )
}

fn rustup() -> Result<()> {
    let found = Command::new("rustup")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        bail!(
            "no `rustup` on the PATH: install Rust with rustup (it holds the stable compiler and \
             the one for eBPF side by side), then run this again"
        );
    }
    Ok(())
}
