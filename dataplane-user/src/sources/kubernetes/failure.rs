//! What went wrong, in one line that names the endpoint and the way out.

use std::{fmt, io};

use super::{access::Resource, connect::Endpoint};

/// The longest that others' words may be, in characters.
const LONGEST: usize = 240;

/// Why something cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For people; begins with the endpoint.
    text: String,
    cause: Cause,
}

/// What has to be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// We are not who we say: the credentials may have been renewed on disk.
    Credentials,
    /// There is no such resource (any more).
    Missing,
    /// Nobody serves it at the moment: an aggregated API whose server is down.
    Unserved,
    /// No watch can begin at the version we have: list anew.
    Gone,
    /// Try again.
    Other,
}

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// Asking for a group's resources.
    Discover,
    /// Reading all objects.
    List(Resource),
    /// Following changes.
    Watch(Resource),
}

impl Failure {
    /// Something that needs no more than another try.
    pub fn other(endpoint: impl fmt::Display, what: impl AsRef<str>) -> Self {
        Self { text: format!("{endpoint}: {}", one_line(what.as_ref())), cause: Cause::Other }
    }

    /// A resource that was asked for by name and does not exist.
    pub fn missing(endpoint: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { text: format!("{endpoint}: {what}"), cause: Cause::Missing }
    }

    /// An error of the client's.
    pub fn of(endpoint: &Endpoint, attempt: Attempt, error: &kube::Error) -> Self {
        let (cause, what) = match error {
            kube::Error::Api(status) => of_status(attempt, status),
            kube::Error::SerdeError(error) => (Cause::Other, no_answer(attempt, error)),
            kube::Error::FromUtf8(error) => (Cause::Other, no_answer(attempt, error)),
            kube::Error::Auth(error) => {
                (Cause::Credentials, format!("the credentials cannot be used: {error}"))
            }
            error => (Cause::Other, innermost(error)),
        };
        Self { text: format!("{endpoint}: {}", one_line(&what)), cause }
    }

    /// An answer that makes no sense.
    pub fn garbage(endpoint: &Endpoint, attempt: Attempt, error: &serde_json::Error) -> Self {
        Self::other(endpoint, no_answer(attempt, error))
    }

    /// Whether everything has to be listed anew.
    pub fn is_gone(&self) -> bool {
        self.cause == Cause::Gone
    }

    /// Whether there is no such thing.
    pub fn is_missing(&self) -> bool {
        self.cause == Cause::Missing
    }

    /// Whether it may be there, but nobody answers for it.
    pub fn is_unserved(&self) -> bool {
        self.cause == Cause::Unserved
    }

    /// Whether to begin with credentials and discovery again.
    pub fn ends_session(&self) -> bool {
        matches!(self.cause, Cause::Credentials | Cause::Missing)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn of_status(attempt: Attempt, status: &kube::core::Status) -> (Cause, String) {
    let said = match (status.message.as_str(), status.reason.as_str()) {
        ("", reason) => reason,
        (message, _) => message,
    };
    match (status.code, attempt) {
        (401, _) => (
            Cause::Credentials,
            format!("401, our token or certificate is not accepted ({said}); renew it"),
        ),
        (403, attempt) => (Cause::Other, format!("403, {} ({said})", attempt.missing_right())),
        (404, Attempt::Discover) => (Cause::Missing, "404, there is no such group".to_owned()),
        (503, Attempt::Discover) => (Cause::Unserved, format!("503, {said}")),
        (404, Attempt::List(resource) | Attempt::Watch(resource)) => {
            (Cause::Missing, format!("404, there is no {resource} in version {}", resource.version))
        }
        (410, _) => (Cause::Gone, format!("410, {said}")),
        // A version of another history, or of the future: etcd was restored.
        (400, Attempt::Watch(_)) => (Cause::Gone, format!("400, {said}")),
        (504, Attempt::Watch(_)) if said.contains("resource version") => {
            (Cause::Gone, format!("504, {said}"))
        }
        (code, attempt) => (Cause::Other, format!("{code} when we {attempt} ({said})")),
    }
}

fn no_answer(attempt: Attempt, error: impl fmt::Display) -> String {
    format!("gives no answer of a Kubernetes API when we {attempt}: {error}")
}

impl Attempt {
    /// The right that 403 says we lack.
    fn missing_right(self) -> String {
        let (verb, resource) = match self {
            Self::Discover => {
                return "we may not ask which resources there are; bind us to the ClusterRole \
                        system:discovery"
                    .to_owned();
            }
            Self::List(resource) => ("list", resource),
            Self::Watch(resource) => ("watch", resource),
        };
        format!(
            "we may not {verb} {resource}: packaging/rbac.yaml has the rule (apiGroups [\"{}\"], \
             resources [{}], verbs [{verb}])",
            resource.group, resource.plural
        )
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discover => f.write_str("ask which resources there are"),
            Self::List(resource) => write!(f, "list {resource}"),
            Self::Watch(resource) => write!(f, "watch {resource}"),
        }
    }
}

/// The cause of all causes; those above it only say that something failed.
fn innermost(error: &kube::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match last.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ => steady(last.to_string()),
    }
}

/// As short as what there is to do, and the same at every attempt: the client says
/// by how many seconds a certificate is too old.
fn steady(text: String) -> String {
    let is_about = |what: &str| text.starts_with("invalid peer certificate") && text.contains(what);
    if is_about("expired") {
        "the server's certificate has expired".to_owned()
    } else if is_about("UnknownIssuer") || is_about("BadSignature") {
        "the server's certificate is by another authority than the one we were given; correct \
         certificate-authority in the kubeconfig"
            .to_owned()
    } else {
        text
    }
}

/// Others' words without line breaks, and not without end.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()));
    }
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
    fn certificates_are_told_apart_by_what_there_is_to_do() {
        let of = |what: &str| steady(format!("invalid peer certificate: {what}"));
        let expired = "certificate expired: verification time 1764113208 (UNIX), but certificate is \
                       not valid after 1577836800 (186276408 seconds ago)";
        assert_eq!(of(expired), "the server's certificate has expired");
        for other in ["UnknownIssuer", "BadSignature"] {
            assert!(of(other).contains("another authority"), "{}", of(other));
        }
        let name = "certificate not valid for name \"api.lab\"";
        assert_eq!(of(name), format!("invalid peer certificate: {name}"));
    }

    #[test]
    fn others_words_become_one_line_of_bounded_length() {
        assert_eq!(one_line(" <html>\r\n\t<b>\u{1b}[31m502</b>\n"), "<html> <b>[31m502</b>");
        let long = one_line(&"ä ".repeat(10_000));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
