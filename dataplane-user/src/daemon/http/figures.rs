//! What `/metrics` answers, however many ask at once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use hyper::body::Bytes;

use crate::{
    bpf::Pins,
    clock,
    daemon::report::{State, current},
    metrics::{Format, Metric, Samples, maps, report},
};

/// An answer is given again for at least so long.
const FRESH: Duration = Duration::from_millis(100);
/// And for so many times the time it took to make: however often it is asked for, and however
/// large the maps are, it takes a tenth of one CPU at most.
const SPARE: u32 = 9;
/// How often maps that cannot be read are tried again: a map that the daemon replaces is missing for a
/// moment.
const TRIES: u32 = 5;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(50);

/// The answer that was made last.
#[derive(Default)]
pub struct Figures(Option<Made>);

struct Made {
    nodes: bool,
    until: Instant,
    samples: Samples,
    written: BTreeMap<Format, Bytes>,
}

impl Figures {
    /// Returns the figures in this format; `nodes`: also those of each node.
    ///
    /// # Errors
    /// Never, as writing to memory is not refused.
    pub fn get(
        &mut self,
        pins: &Pins,
        state: &Arc<State>,
        nodes: bool,
        format: Format,
    ) -> Result<Bytes, fmt::Error> {
        let is_fresh = |made: &Made| made.nodes == nodes && Instant::now() < made.until;
        let made = match self.0.take().filter(is_fresh) {
            Some(made) => self.0.insert(made),
            None => self.0.insert(make(pins, state, nodes)),
        };
        if let Some(written) = made.written.get(&format) {
            return Ok(written.clone());
        }
        let written = Bytes::from(made.samples.clone().write(format)?);
        made.written.insert(format, written.clone());
        Ok(written)
    }
}

fn make(pins: &Pins, state: &Arc<State>, nodes: bool) -> Made {
    let began = Instant::now();
    let (samples, paused) = collect(pins, state, nodes);
    let good_for = FRESH.max(began.elapsed().saturating_sub(paused) * SPARE);
    Made { nodes, until: Instant::now() + good_for, samples, written: BTreeMap::new() }
}

/// Returns the figures, and how long it waited for maps.
fn collect(pins: &Pins, state: &Arc<State>, nodes: bool) -> (Samples, Duration) {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = clock::monotonic();
    let mut samples = Samples::default();
    report::add(&mut samples, state, &current(state, now), unix);
    // Before the first decision there need not be any.
    let tries = if state.decided.is_some() { TRIES } else { 1 };
    let (read, paused) = insist(tries, || {
        let mut figures = Samples::default();
        maps::add(&mut figures, pins, nodes, now, unix)?;
        Ok(figures)
    });
    samples.add(Metric::MapsReadable, [], read.is_some());
    samples.merge(read.unwrap_or_default());
    (samples, paused)
}

/// Tries so often, with pauses. Returns what was read, and how long it paused.
fn insist<T>(tries: u32, mut read: impl FnMut() -> Result<T>) -> (Option<T>, Duration) {
    let mut paused = Duration::ZERO;
    for attempt in 1..=tries {
        match read() {
            Ok(read) => return (Some(read), paused),
            Err(error) => tracing::debug!("no figures of the maps: {error:#}"),
        }
        if attempt < tries {
            thread::sleep(PAUSE);
            paused += PAUSE;
        }
    }
    (None, paused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::{Code, Problem};

    /// What is missing for a moment is there at the next try.
    #[test]
    fn maps_that_cannot_be_read_are_tried_again() {
        let mut calls = 0;
        let mut third = || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { anyhow::bail!("missing") }
        };
        assert_eq!(insist(TRIES, &mut third), (Some(3), 2 * PAUSE));
        assert_eq!(insist(1, &mut third), (None, Duration::ZERO));
        assert_eq!(calls, 4);
    }

    /// However many ask: maps are read once for all who ask while an answer is fresh.
    #[test]
    fn an_answer_is_given_again_while_it_is_fresh() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        let well = Arc::new(State::for_tests());
        let away = Problem::new(Code::SourceStale, "etcd", "no answer");
        let ill = Arc::new(State { problems: vec![away], ..State::for_tests() });
        let mut figures = Figures::default();
        let series = "tunless_problems{code=\"source-stale\",level=\"degraded\"}";
        let get = |figures: &mut Figures, state: &Arc<State>, format| {
            let text = figures.get(&pins, state, false, format).unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            assert!(text.contains("tunless_maps_readable 0"), "{text}");
            let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap();
            line.trim().to_owned()
        };
        assert_eq!(get(&mut figures, &well, Format::Text), "0");
        let set = |figures: &mut Figures, until| figures.0.as_mut().unwrap().until = until;
        set(&mut figures, Instant::now() + Duration::from_secs(3_600));
        assert_eq!(get(&mut figures, &ill, Format::Text), "0", "the same answer");
        assert_eq!(get(&mut figures, &ill, Format::OpenMetrics), "0", "in another format");
        set(&mut figures, Instant::now());
        assert_eq!(get(&mut figures, &ill, Format::Text), "1", "it was fresh no longer");
        set(&mut figures, Instant::now() + Duration::from_secs(3_600));
        figures.get(&pins, &well, true, Format::Text).unwrap();
        assert_eq!(get(&mut figures, &well, Format::Text), "0", "the nodes' figures are others");
    }
}
