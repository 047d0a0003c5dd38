//! Lines of BIRD's control socket (its documentation, "Remote control").
//!
//! ```text
//! 0001 BIRD 2.0.12 ready.       a code, a space: the last line of a reply
//! 1007-Table master4:           a code, a dash: there is more
//!  10.20.42.0/26 …              a space: more of what the line before was
//! +…                            news that nobody asked for
//! ```

/// A line of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// What it is about: 0xxx is an end, 1xxx and 2xxx are data, 8xxx and 9xxx errors.
    pub code: u16,
    /// Nothing follows.
    pub is_last: bool,
    /// The rest, blanks at its beginning included.
    pub text: &'a str,
}

impl Line<'_> {
    /// Whether BIRD says no.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.code >= 8000
    }
}

/// What a line may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed<'a> {
    /// Part of a reply.
    Line(Line<'a>),
    /// Unasked for: to be skipped.
    News,
    /// Not BIRD's language.
    Garbage,
}

/// Reads a line, its end cut off. `before`: the code of the line before.
#[must_use]
pub fn parse(raw: &str, before: Option<u16>) -> Parsed<'_> {
    if raw.starts_with('+') {
        return Parsed::News;
    }
    if let Some(text) = raw.strip_prefix(' ') {
        return before
            .map_or(Parsed::Garbage, |code| Parsed::Line(Line { code, is_last: false, text }));
    }
    let Some((digits, rest)) = raw.split_at_checked(4) else { return Parsed::Garbage };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Parsed::Garbage;
    }
    let Ok(code) = digits.parse() else { return Parsed::Garbage };
    match rest.split_at_checked(1) {
        Some((" ", text)) => Parsed::Line(Line { code, is_last: true, text }),
        Some(("-", text)) => Parsed::Line(Line { code, is_last: false, text }),
        None => Parsed::Line(Line { code, is_last: true, text: "" }),
        Some(_) => Parsed::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(code: u16, is_last: bool, text: &str) -> Parsed<'_> {
        Parsed::Line(Line { code, is_last, text })
    }

    #[test]
    fn each_kind_of_line_is_read() {
        assert_eq!(parse("0001 BIRD 2.0.12 ready.", None), line(1, true, "BIRD 2.0.12 ready."));
        assert_eq!(parse("1007-Table master4:", None), line(1007, false, "Table master4:"));
        assert_eq!(parse(" 10.20.42.0/26", Some(1007)), line(1007, false, "10.20.42.0/26"));
        assert_eq!(parse("0000 ", Some(1007)), line(0, true, ""));
        assert_eq!(parse("+bird: something", Some(1007)), Parsed::News);
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for raw in ["", " orphan", "HTTP/1.1 400 Bad Request", "12", "+1x", "0001~x", "é012 x"] {
            let parsed = parse(raw, None);
            assert!(!matches!(parsed, Parsed::Line(_)), "{raw}: {parsed:?}");
        }
        let Parsed::Line(refused) = parse("9001 syntax error", None) else { panic!("a line") };
        assert!(refused.is_error() && refused.is_last);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(raw in ".*", before in proptest::option::of(0u16..9999)) {
            let _ = parse(&raw, before);
        }
    }
}
