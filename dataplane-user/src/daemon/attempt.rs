//! `tunless try`: acceleration that ends by itself.
//!
//! The end is in the map `TRY`, which the programs compare with the clock: past it every packet is the
//! kernel's, whether a daemon runs or not. `tunless try --keep` writes 0 there, and needs no daemon
//! either. A daemon that starts in between goes on to the same end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{
    Daemon,
    report::{Code, Problem},
};
use crate::{
    bpf::{Pins, frozen},
    clock,
    config::{ConfigFile, DecapHook, Mode, Spread},
    kernel::{Host, TUNL0},
    output,
};

/// How to go on, and how not to.
pub const REMEDY: &str = "`tunless try --keep` goes on with tunless from now on, `tunless detach` \
                          removes it (stop the daemon first)";

/// Returns when the try that another run left is over, if there is one. `remembered`: where its map
/// is gone.
///
/// # Errors
/// If it cannot be read. Then nothing may start, which could go on for longer than was asked for.
pub fn left(pins: &Pins, remembered: Option<Duration>) -> Result<Option<Duration>> {
    match pins.active() {
        Some(active) => frozen::try_end(&active),
        None => Ok(remembered),
    }
}

/// Begins a try of this length; returns when it is over.
///
/// # Errors
/// If there is one already, or no tunl0 to go back to.
pub fn begin(length: Duration, left: Option<Duration>, host: &Host) -> Result<Duration> {
    let now = clock::monotonic();
    if let Some(end) = left {
        bail!("{}: {REMEDY}", describe(end, now));
    }
    if !host.tunl0_carries_routes() {
        bail!(
            "{TUNL0} carries no routes to pods on this host, so there would be nothing to go back to \
             when the try is over; `tunless run` starts without a way back"
        );
    }
    Ok(now + length)
}

/// Programs that are about to be attached obey this end. `is_new`: it begins now. An end that our maps
/// have already is not written again, because `tunless try --keep` may have taken it back meanwhile; what maps
/// have that do not serve is of an earlier time.
///
/// # Errors
/// If it cannot be written.
pub fn arm(pins: &Pins, end: Option<Duration>, is_new: bool) -> Result<()> {
    let serves = pins.active().is_some_and(|active| active == pins.maps());
    match pins.map(frozen::TRY).exists() && (is_new || !serves) {
        true => frozen::set_try_end(&pins.maps(), end),
        // Without a map it is written when that is made, before programs are attached.
        false => Ok(()),
    }
}

/// Leaves out of a file what would not end with the programs.
///
/// # Errors
/// If the file rules out what a try needs.
pub fn adapt(file: &mut ConfigFile) -> Result<()> {
    let against = match file.config.mode {
        Mode::Replace => "leaves no tunl0 to go back to, so `tunless try` cannot end by itself",
        Mode::Shadow => "only looks on, and `tunless try` carries packets",
        Mode::Auto | Mode::Accelerate => "",
    };
    if !against.is_empty() {
        bail!(
            "{}: mode: `{}` {against}; use `auto` or `accelerate`",
            file.path.display(),
            file.config.mode.as_str()
        );
    }
    // Attaching XDP resets most NICs, and RPS outlives a daemon that is killed.
    file.config.underlay.decap = DecapHook::Tc;
    file.config.underlay.spread = Spread::Off;
    Ok(())
}

/// What there is to say about a try that is over at `end`.
#[must_use]
pub fn problem(end: Duration, now: Duration) -> Problem {
    let code = if now < end { Code::TryRuns } else { Code::TryOver };
    Problem::new(code, "", describe(end, now)).remedy(REMEDY)
}

fn describe(end: Duration, now: Duration) -> String {
    match end.checked_sub(now) {
        Some(left) if !left.is_zero() => format!(
            "`tunless try` is under way: in {} every packet takes tunl0's way again, unless it is kept",
            output::age(left.as_secs())
        ),
        _ => {
            let since = now.saturating_sub(end).as_secs();
            format!(
                "`tunless try` was not kept and ended {} ago: every packet takes tunl0's way, as \
                 if tunless were not there",
                output::age(since)
            )
        }
    }
}

/// Keeps what is tried. Returns what there is to say about it.
///
/// # Errors
/// If nothing is tried, or the kernel refuses.
pub fn keep(pins: &Pins) -> Result<String> {
    let active = pins.active().with_context(|| {
        format!("nothing is pinned at {}, so nothing is tried", pins.root().display())
    })?;
    let Some(end) = frozen::try_end(&active)? else {
        bail!("nothing is only tried: tunless goes on until `tunless detach`");
    };
    frozen::set_try_end(&active, None)?;
    Ok(match clock::monotonic() < end {
        true => "kept: tunless goes on until `tunless detach`".to_owned(),
        false => "the try was over; from now on packets take the fast path again, until `tunless \
                  detach`"
            .to_owned(),
    })
}

/// What became of a try since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// `tunless try --keep`.
    Kept,
    /// Its time is up.
    Over,
}

impl Daemon {
    /// Looks whether a try was kept or is over.
    pub(super) fn look_at_attempt(&self) -> Option<Turn> {
        let end = self.decider.memory().attempt?;
        // Without the map nothing was said; it is made anew with the same end.
        let is_kept = self.pins.map(frozen::TRY).exists()
            && frozen::try_end(&self.pins.maps()).is_ok_and(|end| end.is_none());
        if is_kept {
            return Some(Turn::Kept);
        }
        (clock::monotonic() >= end).then_some(Turn::Over)
    }

    /// Whether this process was to try tunless, and the time for it is up.
    pub(super) fn ends_now(&mut self) -> bool {
        let is_over = self.ends_with_attempt && self.look_at_attempt() == Some(Turn::Over);
        if is_over {
            self.reporter.write_pending();
            tracing::info!(
                "the try is over: every packet takes tunl0's way, as before. `tunless counters \
                 summary` has what became of packets meanwhile. {REMEDY}"
            );
        }
        is_over
    }

    /// Goes on by the file as it is.
    pub(super) fn keep_attempt(&mut self) {
        self.decider.memory_mut().attempt = None;
        let file = self.decider.file();
        match ConfigFile::from_text(&file.path, file.text().to_owned()) {
            Ok(mut whole) => {
                whole.config.bpffs.clone_from(&file.config.bpffs);
                let fitness = self.decider.fitness().clone();
                self.decider.replace_file(whole, fitness);
            }
            // It was accepted before.
            Err(error) => tracing::warn!("{error:#}"),
        }
        tracing::info!("`tunless try --keep`: goes on until `tunless detach`");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: Duration = Duration::from_secs(1000);

    #[test]
    fn what_is_said_depends_on_the_time() {
        let before = problem(END, END - Duration::from_secs(125));
        assert_eq!(before.code, Code::TryRuns);
        assert!(before.what.contains("in 2m every packet"), "{}", before.what);
        for after in [END, END + Duration::from_secs(61)] {
            assert_eq!(problem(END, after).code, Code::TryOver);
        }
        assert!(problem(END, END).what.contains("ended 0s ago"));
    }

    #[test]
    fn a_second_try_is_refused_and_so_is_one_without_tunl0() {
        let host = Host::default();
        let left = begin(END, Some(END), &host).unwrap_err().to_string();
        assert!(left.contains("tunless try --keep"), "{left}");
        let bare = begin(END, None, &host).unwrap_err().to_string();
        assert!(bare.contains("tunl0 carries no routes"), "{bare}");
    }

    #[test]
    fn what_would_outlive_the_programs_is_left_out() {
        let path = std::path::Path::new("config.yaml");
        let text = "node: {name: a}\nunderlay: {decap: xdp, spread: rps}\n";
        let mut file = ConfigFile::from_text(path, text.into()).unwrap();
        adapt(&mut file).unwrap();
        assert_eq!(file.config.underlay.decap, DecapHook::Tc);
        assert_eq!(file.config.underlay.spread, Spread::Off);
        let mut file = ConfigFile::from_text(path, format!("mode: replace\n{text}")).unwrap();
        assert!(adapt(&mut file).unwrap_err().to_string().starts_with("config.yaml: mode:"));
    }
}
