//! A stand-in for `tunless` in the lab's own tests: it speaks the command line
//! and systemd's protocol, and makes a bpffs directory. It carries no packet.

use std::{env, error::Error, fs, os::unix::net::UnixDatagram, process::exit};

use nix::sys::signal::{SigSet, Signal};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let config = fs::read_to_string(option("--config").ok_or("no --config")?)?;
    let bpffs = option("--bpffs").or_else(|| key(&config, "bpffs")).ok_or("no bpffs")?;
    match args[0].as_str() {
        "run" => run(&config, &bpffs),
        "detach" if key(&config, "mode").as_deref() == Some("untidy") => Ok(()),
        "detach" => Ok(fs::remove_dir_all(bpffs)?),
        "status" => {
            let mode = key(&config, "mode").unwrap_or_default();
            println!(r#"{{"apiVersion":"tunless/v1","items":[{{"mode":"{mode}"}}]}}"#);
            Ok(())
        }
        other => Err(format!("no command {other}").into()),
    }
}

fn run(config: &str, bpffs: &str) -> Result<()> {
    if key(config, "mode").as_deref() == Some("refused") {
        eprintln!("config.yaml:1: mode: no such mode");
        exit(2);
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGHUP);
    signals.add(Signal::SIGTERM);
    // Before READY: what comes after it must not kill us.
    signals.thread_block()?;
    fs::create_dir_all(format!("{bpffs}/v1"))?;
    println!("the fake is ready");
    notify("READY=1")?;
    while signals.wait()? == Signal::SIGHUP {
        notify("RELOADING=1\nMONOTONIC_USEC=1")?;
        notify("READY=1")?;
    }
    Ok(())
}

fn notify(state: &str) -> Result<()> {
    let socket = env::var("NOTIFY_SOCKET")?;
    UnixDatagram::unbound()?.send_to(state.as_bytes(), socket)?;
    Ok(())
}

/// The value of a top-level key.
fn key(config: &str, name: &str) -> Option<String> {
    config.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}
