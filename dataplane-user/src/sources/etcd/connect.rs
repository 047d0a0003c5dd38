//! A connection to one endpoint. Files are read each time, so that a renewed
//! certificate or password is used without a restart.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::error;
use crate::{
    config::EtcdConfig,
    sources::error::{Endpoint, SourceError},
};

type Result<T> = std::result::Result<T, SourceError>;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long etcd may take to answer a request.
pub const ANSWER: Duration = Duration::from_secs(10);
/// The largest answer that is read, bytes; gRPC's default of 4 MB is less than a page
/// can be.
pub const LARGEST: usize = 256 << 20;
/// How often a connection is tried, and how long the answer may take: a server that
/// vanished without a word is noticed in the sum of both. Not more often than every
/// 5 s, or etcd hangs up (`--grpc-keepalive-min-time`).
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Connects, and asks for a token where a user is configured.
///
/// # Errors
/// If a file cannot be used, the endpoint does not answer, or refuses the user.
pub async fn connect(config: &EtcdConfig, endpoint: &Endpoint, url: &str) -> Result<Client> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(ALIVE.0, ALIVE.1)
        .with_keep_alive_while_idle(true)
        // A member cut off from the others would be silent, not wrong.
        .with_require_leader(true);
    if url.starts_with("https://") {
        options = options.with_tls(tls(config, endpoint)?);
    }
    if let (Some(user), Some(path)) = (&config.username, &config.password_file) {
        let password = String::from_utf8(read(path, endpoint)?)
            .map_err(|_| endpoint.error(format!("{} is not text", path.display())))?;
        options = options.with_user(user, password.trim());
    }
    let attempt = timeout(ANSWER, Client::connect([url], Some(options))).await;
    attempt.map_err(|_| late(endpoint))?.map_err(|error| {
        let error = error::of(endpoint, &error);
        match &config.username {
            Some(user) => error.during(format!("as user {user}")),
            None => error,
        }
    })
}

/// The error of an endpoint that does not answer within [`ANSWER`].
pub fn late(endpoint: &Endpoint) -> SourceError {
    endpoint.error(format!("no answer within {} s", ANSWER.as_secs()))
}

fn tls(config: &EtcdConfig, endpoint: &Endpoint) -> Result<TlsOptions> {
    let pem = |path, what| pem(path, what, endpoint);
    let mut tls = TlsOptions::new();
    tls = match &config.ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(pem(path, "CERTIFICATE")?)),
        // The system's.
        None => tls.with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&config.certificate, &config.key) {
        let (certificate, key) = (pem(certificate, "CERTIFICATE")?, pem(key, "PRIVATE KEY")?);
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

/// Reads a file in PEM. Of a file without a certificate the TLS library reports only
/// that no certificate is trusted, so this is checked here.
fn pem(path: &Path, what: &str, endpoint: &Endpoint) -> Result<Vec<u8>> {
    let bytes = read(path, endpoint)?;
    let end = format!("{what}-----");
    if bytes.windows(end.len()).any(|window| window == end.as_bytes()) {
        Ok(bytes)
    } else {
        let what = what.to_lowercase();
        Err(endpoint.error(format!("{} has no {what} in PEM in it", path.display())))
    }
}

fn read(path: &Path, endpoint: &Endpoint) -> Result<Vec<u8>> {
    fs::read(path)
        .map_err(|error| endpoint.error(format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EtcdConfig {
        EtcdConfig {
            endpoints: Vec::new(),
            ca: None,
            certificate: None,
            key: None,
            username: None,
            password_file: None,
            prefix: "/calico".to_owned(),
            borrowed: crate::config::sources::Borrowed::Auto,
        }
    }

    #[tokio::test]
    async fn a_missing_or_wrong_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let text = directory.path().join("text");
        fs::write(&text, [0xff]).unwrap();
        let password = EtcdConfig {
            username: Some("root".to_owned()),
            password_file: Some(missing.clone()),
            ..config()
        };
        let no_text = EtcdConfig { password_file: Some(text.clone()), ..password.clone() };
        let ca = EtcdConfig { ca: Some(missing.clone()), ..config() };
        let no_ca = EtcdConfig { ca: Some(text.clone()), ..config() };
        let key = EtcdConfig { certificate: Some(text.clone()), key: Some(missing), ..config() };
        for (config, said) in [
            (password, "missing: No such file"),
            (no_text, "text is not text"),
            (ca, "missing: No such file"),
            (no_ca, "text has no certificate in PEM in it"),
            (key, "text has no certificate in PEM in it"),
        ] {
            // Port 1: nothing listens there, but it does not come to that.
            let url = "https://127.0.0.1:1";
            let Err(error) = connect(&config, &Endpoint::new(url), url).await else { panic!() };
            assert!(error.to_string().contains(said), "no {said} in {error}");
        }
    }
}
