//! etcd's errors as a [`SourceError`].
//!
//! gRPC's errors say "transport error" and hide the reason several errors deeper;
//! etcd's name what it refused, not the remedy.

use std::error::Error as StdError;

use etcd_client::Error;

use crate::sources::error::{Cause, Endpoint, SourceError, is_end};

/// gRPC status codes (`grpc/statuscodes.md`).
const PERMISSION_DENIED: i32 = 7;
const OUT_OF_RANGE: i32 = 11;

/// Makes one error of an error and all its causes.
pub fn of(endpoint: &Endpoint, error: &Error) -> SourceError {
    let mut parts: Vec<String> = Vec::new();
    let mut add = |text: String| {
        // Most repeat what the ones below them say.
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    };
    match error {
        Error::GRpcStatus(status) => add(match status.message() {
            "" => status.code().to_string(),
            message => message.to_owned(),
        }),
        Error::TransportError(_) => {}
        error => add(error.to_string()),
    }
    causes(error).for_each(|cause| add(cause.to_string()));
    let found = endpoint.error(parts.join(": ")).caused_by(cause(error));
    let hint = HINTS.iter().find(|(text, _)| parts.iter().any(|part| part.contains(text)));
    match hint {
        Some((_, remedy)) => found.remedy(*remedy),
        None => found,
    }
}

/// The errors below one of etcd's client.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first = match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(error) => Some(error as &(dyn StdError + 'static)),
        Error::IoError(error) => Some(error as &(dyn StdError + 'static)),
        error => error.source(),
    };
    std::iter::successors(first, |&error| error.source())
}

fn cause(error: &Error) -> Cause {
    match error {
        Error::GRpcStatus(status) if i32::from(status.code()) == PERMISSION_DENIED => {
            Cause::Forbidden
        }
        Error::GRpcStatus(status) if i32::from(status.code()) == OUT_OF_RANGE => Cause::Gone,
        error if causes(error).any(is_end) => Cause::Closed,
        _ => Cause::Other,
    }
}

/// The remedy for what some errors say.
const HINTS: [(&str, &str); 6] = [
    ("user name is empty", "name a user: sources.etcd.username and password_file"),
    ("fatal alert: BadCertificate", NO_CERTIFICATE),
    ("fatal alert: CertificateRequired", NO_CERTIFICATE),
    ("fatal alert: UnknownCA", NO_CERTIFICATE),
    ("UnknownIssuer", "put the authority that signed its certificate into sources.etcd.ca"),
    ("http2 error", "this is not etcd, or it expects https"),
];
const NO_CERTIFICATE: &str =
    "etcd does not accept our client certificate: correct sources.etcd.certificate";

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn text(error: &Error) -> String {
        of(&Endpoint::new("etcd"), error).to_string()
    }

    #[test]
    fn an_error_of_etcd_becomes_one_line_with_its_remedy() {
        let error = Error::WatchError("etcdserver: user name is empty".to_owned());
        assert!(text(&error).ends_with("; name a user: sources.etcd.username and password_file"));
        let error = Error::WatchError("one\ntwo".to_owned());
        assert_eq!(text(&error), "etcd: watch error: one two");
    }

    #[test]
    fn a_connection_that_ended_is_told_from_one_that_was_refused() {
        let cause = |kind: io::ErrorKind| cause(&Error::IoError(io::Error::from(kind)));
        assert_eq!(cause(io::ErrorKind::ConnectionRefused), Cause::Other);
        assert_eq!(cause(io::ErrorKind::ConnectionReset), Cause::Closed);
        assert_eq!(cause(io::ErrorKind::BrokenPipe), Cause::Closed);
    }
}
