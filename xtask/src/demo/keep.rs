//! A lab that stays: how to enter it, and how to be rid of it.

use std::fs;

use anyhow::{Context as _, Result};
use tunless_lab::Lab;

use super::{page::Page, stage::Stage};

/// Leaves the lab up, with a shell for every place in it.
pub fn keep(page: &Page, stage: &Stage) -> Result<()> {
    let dir = stage.lab.dir();
    page.heading("The lab stays up. Enter it with:");
    let mut lines = String::new();
    for place in stage.places() {
        let rc_file = dir.join(format!("{}.rc", place.name));
        let script = dir.join(&place.name);
        write(&rc_file, &place.rc_file())?;
        write(&script, &place.enter(&rc_file))?;
        lines += &format!("sh {:<44} # a shell on {}\n", script.display(), place.name);
    }
    stage.lab.keep()?;
    page.picture(&lines);
    page.say("There, type the same lines as above: ping, curl, tcpdump, ip, tunless.");
    page.heading("Remove it with:");
    page.picture("cargo xtask demo --remove");
    Ok(())
}

fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes every lab that was kept.
pub fn remove() -> Result<()> {
    match Lab::remove_kept()? {
        0 => println!("there is no lab to remove"),
        1 => println!("the lab is removed"),
        count => println!("{count} labs are removed"),
    }
    Ok(())
}
