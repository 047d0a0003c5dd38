//! What went wrong, in one line.
//!
//! gRPC's errors say "transport error" and hide the reason several errors deeper;
//! etcd's say what it did not like, not what to do.

use std::error::Error as _;

use etcd_client::Error;

/// gRPC status codes (`grpc/statuscodes.md`).
const PERMISSION_DENIED: i32 = 7;
const OUT_OF_RANGE: i32 = 11;

/// Longer is cut: a server may send whatever it likes.
const LONGEST: usize = 300;

/// An error with all its causes.
pub fn one_line(error: &Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |text: String| {
        // Each tells what those below it say, mostly.
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    };
    if let Error::GRpcStatus(status) = error {
        add(match status.message() {
            "" => format!("{:?}", status.code()),
            message => message.to_owned(),
        });
        let mut cause = status.source();
        while let Some(error) = cause {
            add(error.to_string());
            cause = error.source();
        }
    } else {
        if !matches!(error, Error::TransportError(_)) {
            add(error.to_string());
        }
        let mut cause = match error {
            Error::TransportError(error) => Some(error as &(dyn std::error::Error + 'static)),
            _ => error.source(),
        };
        while let Some(error) = cause {
            add(error.to_string());
            cause = error.source();
        }
    }
    let mut line = clean(&parts.join(": "));
    if let Some((_, hint)) = HINTS.iter().find(|(said, _)| line.contains(said)) {
        line.push_str("; ");
        line.push_str(hint);
    }
    line
}

/// What to do about what some errors say.
const HINTS: [(&str, &str); 6] = [
    ("user name is empty", "name a user: sources.etcd.username and password_file"),
    ("fatal alert: BadCertificate", NO_CERTIFICATE),
    ("fatal alert: CertificateRequired", NO_CERTIFICATE),
    ("fatal alert: UnknownCA", NO_CERTIFICATE),
    ("UnknownIssuer", "who signed its certificate is not in sources.etcd.ca"),
    ("http2 error", "that is no etcd, or one that wants https"),
];
const NO_CERTIFICATE: &str = "it wants another certificate of ours: sources.etcd.certificate";

/// Whether it says no more than that the connection ended. The other side may have
/// said why, but too late: under TLS 1.3 that is a matter of luck.
pub fn is_vague(why: &str) -> bool {
    ["connection closed", "broken pipe", "Connection reset"].iter().any(|it| why.contains(it))
}

/// Whether the history that was asked for is gone.
pub fn is_compacted(error: &Error) -> bool {
    code(error) == Some(OUT_OF_RANGE)
}

/// Whether the user may not do this.
pub fn is_forbidden(error: &Error) -> bool {
    code(error) == Some(PERMISSION_DENIED)
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::GRpcStatus(status) => Some(status.code().into()),
        _ => None,
    }
}

/// One line of printable characters, not too long.
pub fn clean(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(printable).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_server_says_becomes_one_line() {
        assert_eq!(clean("a\nb\u{1b}[31mc"), "a b [31mc");
        let long = clean(&"x".repeat(10_000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        let error = Error::WatchError("etcdserver: user name is empty".to_owned());
        assert!(
            one_line(&error).ends_with("; name a user: sources.etcd.username and password_file")
        );
        let error = Error::WatchError("one\ntwo".to_owned());
        assert_eq!(one_line(&error), "watch error: one two");
    }
}
