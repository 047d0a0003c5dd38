//! The steps, one file each.

mod bird;
mod command_line;
mod crash;
mod detach;
mod devices;
mod doctor;
mod etcd;
mod leases;
mod ping;
mod refusal;
mod routes;
mod service;
mod start;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub use self::doctor::narrow_path;
use super::{
    options::{Fastpath, Options, Source},
    page::Page,
    shell::{Place, Said},
    stage::Stage,
};
use crate::interrupt;

/// One thing that is shown.
pub struct Step {
    /// What is about to be seen.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// Shows it and checks it; returns what that proved.
    pub show: fn(&mut Page, &mut Stage) -> Result<String>,
}

/// The steps of a demo, in order.
pub fn plan(options: Options, keep: bool) -> Vec<Step> {
    let service = if options.is_trusted() { refusal::STEP } else { service::STEP };
    let mut steps = vec![start::STEP];
    match options.source {
        Source::File => {}
        Source::Bird => steps.push(bird::STEP),
        Source::Etcd => steps.push(etcd::STEP),
    }
    steps.extend([ping::STEP, routes::STEP, devices::STEP, wire::STEP, service]);
    if options.fastpath == Fastpath::Verified {
        steps.push(leases::STEP);
    }
    steps.extend([command_line::STEP, doctor::STEP, crash::STEP]);
    if !keep {
        steps.push(detach::STEP);
    }
    steps
}

/// Far beyond what it takes a source and tunless to follow.
const SOON: Duration = Duration::from_secs(30);

/// Until tunless on node2 has a route to `cidr`, or no longer has one.
fn await_route(stage: &Stage, cidr: &str, is_there: bool) -> Result<()> {
    let end = Instant::now() + SOON;
    loop {
        let routes = stage.node2.daemon()?.cli_json(&["routes", "list"])?;
        let items = routes["items"].as_array().into_iter().flatten();
        let found = items.into_iter().any(|item| item["cidr"] == cidr);
        if found == is_there {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{cidr} does not change in {} s", SOON.as_secs());
        interrupt::sleep(Duration::from_millis(50))?;
    }
}

/// Until every BIRD has its sessions.
fn await_sessions(stage: &Stage) -> Result<()> {
    let end = Instant::now() + SOON;
    for bird in &stage.birds {
        while !bird.is_established()? {
            ensure!(Instant::now() < end, "no BGP session within {} s", SOON.as_secs());
            interrupt::sleep(Duration::from_millis(50))?;
        }
    }
    Ok(())
}

/// Types a line, runs it and prints what it prints, whatever it comes to.
fn try_line(page: &Page, place: &Place, line: &str) -> Result<Said> {
    page.typed(&place.name, line);
    let said = place.run(line)?;
    page.printed(&said.text);
    Ok(said)
}

/// The same with a line that has to succeed; what it printed.
fn line(page: &Page, place: &Place, line: &str) -> Result<String> {
    let said = try_line(page, place, line)?;
    ensure!(said.success, "`{line}` failed on {}", place.name);
    Ok(said.text)
}

/// The first line of `text` with all of `words` in it.
fn find<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    text.lines().find(|line| words.iter().all(|word| line.contains(word)))
}

/// An error unless some line of `text` has all of `words` in it.
fn expect(text: &str, words: &[&str]) -> Result<()> {
    ensure!(find(text, words).is_some(), "no line has `{}`", words.join("` and `"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::options::Decap;

    #[test]
    fn a_line_is_found_by_all_of_its_words() {
        let text = "10.20.42.0/26 dev tunless0\n10.20.42.31 dev eth0\n";
        assert_eq!(find(text, &["10.20.42", "eth0"]), Some("10.20.42.31 dev eth0"));
        assert!(expect(text, &["10.20.42.0/26", "eth0"]).is_err());
    }

    #[test]
    fn a_kept_lab_is_not_detached() {
        let options = Options { fastpath: Fastpath::Off, decap: Decap::Auto, source: Source::Bird };
        let titles = |keep| plan(options, keep).iter().map(|step| step.title).collect::<Vec<_>>();
        assert_eq!(titles(false).len(), titles(true).len() + 1);
        assert_eq!(titles(false).last(), Some(&detach::STEP.title));
    }
}
