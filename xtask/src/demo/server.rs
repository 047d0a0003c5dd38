//! The HTTP service of the demo: a process in its pod, so that it outlives a
//! demo that leaves its lab up.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use tunless_lab::{Netns, Pod, traffic::http};

/// The port of the article's service.
pub const PORT: u16 = 8080;
const READY: &str = "listening";

/// Answer HTTP requests in a pod of the demo, until killed.
#[derive(clap::Args)]
pub struct Arguments {
    /// The pod's network namespace.
    netns: String,
    /// The name it answers with.
    name: String,
}

/// The process itself.
pub fn serve(arguments: &Arguments) -> Result<()> {
    let _server = http::Server::start(&Netns::named(&arguments.netns), PORT, &arguments.name)?;
    println!("{READY}");
    // Whoever removes the namespace ends us.
    loop {
        thread::park();
    }
}

/// Starts the process in a pod; it listens when this returns.
pub fn start(pod: &Pod) -> Result<Child> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let mut child = pod
        .netns
        .command(&program.to_string_lossy())
        .args(["demo-server", pod.netns.name(), &pod.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("the demo's HTTP service does not start")?;
    let output = child.stdout.take().context("the service's output is not piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line.trim_end() == READY, "the demo's HTTP service ended at once");
    Ok(child)
}
