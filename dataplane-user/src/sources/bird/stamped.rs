//! Texts of BIRD's with times in them.
//!
//! BIRD keeps the time of an event by a clock that nothing sets, and shows it by that of the host: the
//! difference of both is taken anew for each answer (`lib/timer.c`, `tm_format_real_time`), so that the same event
//! has another last digit from one answer to the next.

use std::time::Duration;

/// So far apart two answers' times of one event never are; and nothing that BIRD does happens twice so soon.
const BLUR: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);

/// A text, with its times apart.
#[derive(Clone, Default, Debug)]
pub struct Stamped {
    /// Words, and `-` in the place of each time.
    text: String,
    /// Since midnight.
    times: Vec<Duration>,
}

impl Stamped {
    /// Of one line.
    #[must_use]
    pub fn of(line: &str) -> Self {
        let mut stamped = Self::default();
        stamped.push(line);
        stamped
    }

    /// Adds a line.
    pub fn push(&mut self, line: &str) {
        for word in line.split_whitespace() {
            let time = time_of_day(word);
            self.text.push_str(time.map_or(word, |_| "-"));
            self.text.push(' ');
            self.times.extend(time);
        }
        self.text.push('\n');
    }

    /// Whether both tell the same, with the same times but for what a clock's reading may differ by.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.times.iter().zip(&other.times);
        self.text == other.text
            && self.times.len() == other.times.len()
            && pairs.all(|(one, two)| {
                let apart = one.abs_diff(*two);
                apart.min(DAY.saturating_sub(apart)) < BLUR
            })
    }
}

/// `23:15:15` or `23:15:15.863`; `None`: it is something else.
fn time_of_day(word: &str) -> Option<Duration> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let mut parts = whole.split(':').map(|part| {
        let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let is_fraction = fraction.len() <= 6 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let micros: u64 = format!("{fraction:0<6}").parse().ok().filter(|_| is_fraction)?;
    let is_whole = parts.next().is_none();
    is_whole
        .then(|| Duration::from_secs(hours * 3600 + minutes * 60 + seconds))?
        .checked_add(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_digit_makes_no_difference() {
        let is_same = |one: &str, two: &str| Stamped::of(one).is_same(&Stamped::of(two));
        for (one, two) in [
            ("m1 BGP up 23:15:15.863 x", "m1 BGP up 23:15:15.862 x"),
            ("up 23:15:15.000", "up 23:15:14.999"),
            ("up 00:00:00.000", "up 23:59:59.999"),
            ("2026-11-25 23:04:45.458", "2026-11-25  23:04:45.459"),
            ("at 10:00:00", "at 10:00:00"),
        ] {
            assert!(is_same(one, two), "{one} and {two}");
        }
        for (one, two) in [
            ("up 23:15:15.863", "up 23:15:16.863"),
            ("up 23:15:15", "up 23:15:16"),
            ("up 23:15:15.863", "down 23:15:15.863"),
            ("up 2026-11-25", "up 2026-11-26"),
            ("2026-11-25 23:04:45", "2026-11-26 23:04:45"),
            ("up 23:15:15.863", "up 23:15:15.863 23:15:15.863"),
            ("up -", "up 23:15:15"),
            ("2001:db8::1", "2001:db8::2"),
        ] {
            assert!(!is_same(one, two), "{one} and {two}");
        }
    }

    #[test]
    fn what_is_no_time_is_a_word() {
        for word in [
            "",
            ":",
            "1:2:3",
            "10:00",
            "10:00:00:00",
            "aa:bb:cc",
            "10:00:00.1234567",
            "+1:00:00",
            "٣:00:00",
        ] {
            assert_eq!(time_of_day(word), None, "{word}");
        }
        assert_eq!(time_of_day("00:01:02.5"), Some(Duration::from_millis(62_500)));
    }
}
