//! What goes wrong in a source.
//!
//! A [`SourceError`] means that the source cannot be read: the hub then reports it as
//! down. A [`Malformed`] object is skipped by itself; the source stays up. Both fit
//! into one line of the log.

use std::{error::Error as StdError, fmt, io, sync::Arc};

use thiserror::Error;

/// The longest text of a server or a library that a message quotes, in characters.
const LONGEST: usize = 300;

/// Where a source is read, as messages name it: `etcd https://10.0.0.1:2379`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint(Arc<str>);

impl Endpoint {
    /// Makes the endpoint of this name.
    pub fn new(name: impl fmt::Display) -> Self {
        Self(name.to_string().into())
    }

    /// Returns whether it is reached without TLS (`Some(false)`) or with it; `None`: it has no URL.
    #[must_use]
    pub fn is_encrypted(&self) -> Option<bool> {
        let schemes = [("https://", true), ("http://", false)];
        schemes.iter().find(|(scheme, _)| self.0.contains(scheme)).map(|(_, is)| *is)
    }

    /// Makes an error of this endpoint that another attempt may fix.
    pub fn error(&self, why: impl fmt::Display) -> SourceError {
        SourceError {
            endpoint: self.clone(),
            doing: None,
            why: one_line(&why.to_string()),
            remedy: None,
            cause: Cause::Other,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a source can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// Try again.
    Other,
    /// Try again; the connection ended, and the reason is not known.
    Closed,
    /// Read the credentials again: they were not accepted.
    Credentials,
    /// Do without, where that is possible: the right is missing.
    Forbidden,
    /// Look for another resource: this one does not exist.
    Missing,
    /// Look for another resource: the server behind this one does not answer.
    Unserved,
    /// List everything again: the history since the last change is gone.
    Gone,
}

/// Why a source cannot be read: where, during what, why, and what to do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Error)]
#[error("{endpoint}: {}{why}{}", prefix(doing.as_deref()), suffix(remedy.as_deref()))]
pub struct SourceError {
    endpoint: Endpoint,
    doing: Option<String>,
    why: String,
    remedy: Option<String>,
    cause: Cause,
}

impl SourceError {
    /// Adds what was attempted: `listing /calico/…`.
    #[must_use]
    pub fn during(mut self, doing: impl fmt::Display) -> Self {
        self.doing = Some(doing.to_string());
        self
    }

    /// Adds what the operator can do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says what the source can do.
    #[must_use]
    pub fn caused_by(mut self, cause: Cause) -> Self {
        self.cause = cause;
        self
    }

    /// Returns the reason alone, for a message that names the place itself.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Returns what the source can do.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

fn prefix(doing: Option<&str>) -> String {
    doing.map(|doing| format!("{doing}: ")).unwrap_or_default()
}

fn suffix(remedy: Option<&str>) -> String {
    remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

/// Why a source is down: the errors of all its endpoints, in an order that does not
/// depend on which one was tried first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outage(Vec<SourceError>);

impl Outage {
    /// Replaces "the connection ended" by the reason that the same endpoint gave
    /// `before`. Under TLS 1.3 a server's alert may arrive too late to be read, so the
    /// reason is known at one attempt and not at the next.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        for error in self.0.iter_mut().filter(|error| error.cause == Cause::Closed) {
            if let Some(known) = before.0.iter().find(|known| known.endpoint == error.endpoint) {
                error.clone_from(known);
            }
        }
        self
    }
}

impl From<SourceError> for Outage {
    fn from(error: SourceError) -> Self {
        Self(vec![error])
    }
}

impl FromIterator<SourceError> for Outage {
    fn from_iter<I: IntoIterator<Item = SourceError>>(errors: I) -> Self {
        let mut errors: Vec<_> = errors.into_iter().collect();
        errors.sort();
        errors.dedup();
        Self(errors)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// What is wrong with one object of a source, as a predicate that follows its name:
/// `is empty instead of IPPool`.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    /// Makes one line of the text.
    pub fn new(what: impl fmt::Display) -> Self {
        Self(one_line(&what.to_string()))
    }
}

/// Returns whether an error says no more than that the connection ended.
pub fn is_end(error: &(dyn StdError + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error.downcast_ref::<io::Error>() {
        Some(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
        // The HTTP library's own error is not part of the clients' interfaces.
        None => error.to_string().contains("connection closed"),
    }
}

/// Makes one line of limited length of a text that another program wrote: line breaks
/// and control characters become spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let mut line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_place_attempt_reason_and_remedy() {
        let endpoint = Endpoint::new("etcd http://a:2379");
        assert_eq!(endpoint.error("refused").to_string(), "etcd http://a:2379: refused");
        let whole = endpoint.error("no\nanswer").during("listing /calico/").remedy("look there");
        let line = "etcd http://a:2379: listing /calico/: no answer; look there";
        assert_eq!(whole.to_string(), line);
    }

    #[test]
    fn an_outage_names_each_error_once_and_always_in_the_same_order() {
        let (a, b) = (Endpoint::new("a").error("refused"), Endpoint::new("b").error("refused"));
        let outage: Outage = [b.clone(), a.clone(), b.clone()].into_iter().collect();
        assert_eq!(outage.to_string(), "a: refused; b: refused");
        assert_eq!(outage, [a, b].into_iter().collect());
    }

    #[test]
    fn a_connection_that_ended_does_not_replace_the_reason_of_its_endpoint() {
        let (a, b) = (Endpoint::new("a"), Endpoint::new("b"));
        let closed = |endpoint: &Endpoint| endpoint.error("closed").caused_by(Cause::Closed);
        let before: Outage = [a.error("bad certificate")].into_iter().collect();
        let now: Outage = [closed(&a), closed(&b)].into_iter().collect();
        assert_eq!(now.after(&before).to_string(), "a: bad certificate; b: closed");
        assert_eq!(Outage::from(a.error("new")).after(&before).to_string(), "a: new");
    }

    #[test]
    fn text_of_others_becomes_one_line_of_limited_length() {
        assert_eq!(one_line("a\nb\u{1b}[31mc"), "a b [31mc");
        assert_eq!(one_line(" <html>\r\n\t<b>\u{1b}[31m502</b>\n"), "<html> <b> [31m502</b>");
        let long = one_line(&"ä ".repeat(10_000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
