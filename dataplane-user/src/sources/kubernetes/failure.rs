//! The API's errors as a [`SourceError`].

use std::{fmt, io};

use super::access::Resource;
use crate::sources::error::{Cause, Endpoint, SourceError, is_end};

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// Asking for a group's resources.
    Discover,
    /// Asking for the API servers' own addresses.
    FindServers,
    /// Reading all objects.
    List(Resource),
    /// Following changes.
    Watch(Resource),
}

/// Makes one error of an error of the client's.
pub fn of(endpoint: &Endpoint, attempt: Attempt, error: &kube::Error) -> SourceError {
    match error {
        kube::Error::Api(status) => of_status(endpoint, attempt, status),
        kube::Error::SerdeError(error) => no_answer(endpoint, attempt, error),
        kube::Error::FromUtf8(error) => no_answer(endpoint, attempt, error),
        kube::Error::Auth(error) => endpoint
            .error(format!("the credentials cannot be used: {error}"))
            .caused_by(Cause::Credentials),
        error => innermost(endpoint, error),
    }
}

/// Makes the error of an answer that is not one of a Kubernetes API.
pub fn no_answer(endpoint: &Endpoint, attempt: Attempt, error: impl fmt::Display) -> SourceError {
    endpoint.error(format!("gives no answer of a Kubernetes API when we {attempt}: {error}"))
}

/// Whether the session has to begin again, with credentials and discovery.
pub fn ends_session(error: &SourceError) -> bool {
    matches!(error.cause(), Cause::Credentials | Cause::Missing)
}

fn of_status(endpoint: &Endpoint, attempt: Attempt, status: &kube::core::Status) -> SourceError {
    let message = match (status.message.as_str(), status.reason.as_str()) {
        ("", reason) => reason,
        (message, _) => message,
    };
    let code = status.code;
    // What Go's HTTP server answers.
    if code == 400 && message.contains("HTTP request to an HTTPS server") {
        return endpoint.error("400, the API expects https").remedy(CORRECT_HTTP);
    }
    let error = |why: String, cause| endpoint.error(why).caused_by(cause);
    let gone = || error(format!("{code}, {message}"), Cause::Gone);
    match (code, attempt) {
        (401, _) => error(
            format!("401, our token or certificate is not accepted ({message})"),
            Cause::Credentials,
        )
        .remedy("renew it"),
        (403, attempt) => attempt.missing_right(endpoint, message),
        (404, Attempt::Discover | Attempt::FindServers) => {
            error("404, there is no such group".to_owned(), Cause::Missing)
        }
        (503, Attempt::Discover) => error(format!("503, {message}"), Cause::Unserved),
        (404, Attempt::List(resource) | Attempt::Watch(resource)) => error(
            format!("404, there is no {resource} in version {}", resource.version),
            Cause::Missing,
        ),
        // 400: a version of another history, or of the future: etcd was restored.
        (410, _) | (400, Attempt::Watch(_)) => gone(),
        (504, Attempt::Watch(_) | Attempt::List(_)) if message.contains("resource version") => {
            gone()
        }
        (code, attempt) => error(format!("{code} when we {attempt} ({message})"), Cause::Other),
    }
}

impl Attempt {
    /// Makes the error of an answer 403: which right is missing, and where to get it.
    fn missing_right(self, endpoint: &Endpoint, message: &str) -> SourceError {
        let (verb, resource) = match self {
            Self::Discover => {
                return endpoint
                    .error(format!("403, we may not ask which resources there are ({message})"))
                    .caused_by(Cause::Forbidden)
                    .remedy("bind us to the ClusterRole system:discovery");
            }
            Self::FindServers => {
                return endpoint
                    .error(format!("403, we may not {self} ({message})"))
                    .caused_by(Cause::Forbidden)
                    .remedy("packaging/rbac.yaml has the rule (Role tunless in default)");
            }
            Self::List(resource) => ("list", resource),
            Self::Watch(resource) => ("watch", resource),
        };
        let Resource { group, plural, .. } = resource;
        endpoint
            .error(format!("403, we may not {verb} {resource} ({message})"))
            .caused_by(Cause::Forbidden)
            .remedy(format!(
                "packaging/rbac.yaml has the rule (apiGroups [\"{group}\"], resources [{plural}], \
                 verbs [{verb}])"
            ))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discover => f.write_str("ask which resources there are"),
            Self::FindServers => f.write_str("list the endpoints of default/kubernetes"),
            Self::List(resource) => write!(f, "list {resource}"),
            Self::Watch(resource) => write!(f, "watch {resource}"),
        }
    }
}

/// The cause of all causes; those above it only say that something failed.
fn innermost(endpoint: &Endpoint, error: &kube::Error) -> SourceError {
    let mut last: &(dyn std::error::Error + 'static) = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match last.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => endpoint.error("connection refused"),
        Some(io::ErrorKind::TimedOut) => endpoint.error("no answer in time"),
        _ => {
            let text = last.to_string();
            let error = if is_end(last) {
                endpoint.error(&text).caused_by(Cause::Closed)
            } else {
                of_text(endpoint, &text)
            };
            match wrong_scheme(endpoint.is_encrypted(), is_end(last), &text) {
                Some(remedy) => error.remedy(remedy),
                None => error,
            }
        }
    }
}

const CORRECT_HTTP: &str = "the kubeconfig names the API by http://: write https:// there";

/// What to do about an error of a client that may speak TLS to a server without, or the reverse.
/// `is_end`: the server closed the connection without an answer.
fn wrong_scheme(is_encrypted: Option<bool>, is_end: bool, text: &str) -> Option<&'static str> {
    /// What rustls makes of an answer that is not TLS, or of none.
    const NO_TLS: [&str; 2] = ["tls handshake eof", "InvalidContentType"];
    match is_encrypted? {
        true if NO_TLS.iter().any(|part| text.contains(part)) => Some(
            "does the API speak http? The kubeconfig names it by https://: write http:// there",
        ),
        false if is_end => Some(
            "does the API expect https? The kubeconfig names it by http://: write https:// there",
        ),
        _ => None,
    }
}

/// The same text at every attempt: the client's own says by how many seconds a
/// certificate is too old.
fn of_text(endpoint: &Endpoint, text: &str) -> SourceError {
    let is_about = |what: &str| text.starts_with("invalid peer certificate") && text.contains(what);
    if is_about("expired") {
        endpoint.error("the server's certificate has expired")
    } else if is_about("UnknownIssuer") || is_about("BadSignature") {
        endpoint
            .error("the server's certificate is by another authority than the one we were given")
            .remedy("correct certificate-authority in the kubeconfig")
    } else {
        endpoint.error(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::access::NODES, *};

    #[test]
    fn http_in_the_place_of_https_is_named_and_the_reverse() {
        for (encrypted, is_end, text, remedy) in [
            (Some(true), false, "tls handshake eof", "names it by https://"),
            (
                Some(true),
                false,
                "received corrupt message of type InvalidContentType",
                "by https://",
            ),
            (Some(false), true, "Connection reset by peer (os error 104)", "names it by http://"),
            (Some(true), true, "Connection reset by peer (os error 104)", ""),
            (Some(false), false, "operation timed out", ""),
            (None, true, "connection closed", ""),
        ] {
            let found = wrong_scheme(encrypted, is_end, text).unwrap_or_default();
            assert!(found.contains(remedy) && found.is_empty() == remedy.is_empty(), "{text}");
        }
        let (http, https) =
            ["http://a:1", "https://a:1"].map(|it| Endpoint::new(format!("K {it}"))).into();
        assert_eq!((http.is_encrypted(), https.is_encrypted()), (Some(false), Some(true)));
        let message = "Client sent an HTTP request to an HTTPS server.\n";
        let status =
            kube::core::Status { code: 400, message: message.into(), ..Default::default() };
        let error = of_status(&http, Attempt::Watch(NODES), &status);
        assert!(error.to_string().contains("write https:// there"), "{error}");
        assert_eq!(error.cause(), Cause::Other);
    }

    #[test]
    fn certificates_are_told_apart_by_what_there_is_to_do() {
        let of = |what: &str| {
            of_text(&Endpoint::new("K"), &format!("invalid peer certificate: {what}")).to_string()
        };
        let expired = "certificate expired: verification time 1764113208 (UNIX), but certificate is \
                       not valid after 1577836800 (186276408 seconds ago)";
        assert_eq!(of(expired), "K: the server's certificate has expired");
        for other in ["UnknownIssuer", "BadSignature"] {
            assert!(of(other).contains("another authority"), "{}", of(other));
        }
        let name = "certificate not valid for name \"api.lab\"";
        assert_eq!(of(name), format!("K: invalid peer certificate: {name}"));
    }
}
