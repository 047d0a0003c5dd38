//! A connection to one endpoint. Files are read each time, so that a renewed
//! certificate or password is used without a restart.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::error::one_line;
use crate::config::EtcdConfig;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long etcd may take to answer a request.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How often a connection is tried, and how long the answer may take: a server that
/// vanished without a word is noticed in the sum of both. Not more often than every
/// 5 s, or etcd hangs up (`--grpc-keepalive-min-time`).
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Connects, and asks for a token where there is a user.
pub async fn connect(config: &EtcdConfig, endpoint: &str) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(ALIVE.0, ALIVE.1)
        .with_keep_alive_while_idle(true)
        // A member cut off from the others would be silent, not wrong.
        .with_require_leader(true);
    if endpoint.starts_with("https://") {
        options = options.with_tls(tls(config)?);
    }
    if let (Some(user), Some(path)) = (&config.username, &config.password_file) {
        let password =
            String::from_utf8(read(path)?).map_err(|_| format!("{} is no text", path.display()))?;
        options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
    }
    let attempt = timeout(ANSWER, Client::connect([endpoint], Some(options)));
    attempt.await.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?.map_err(
        |error| match &config.username {
            Some(user) => format!("as user {user}: {}", one_line(&error)),
            None => one_line(&error),
        },
    )
}

fn tls(config: &EtcdConfig) -> Result<TlsOptions, String> {
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

/// The TLS library says of a file without a certificate only that no certificate is
/// trusted.
fn pem(path: &Path, what: &str) -> Result<Vec<u8>, String> {
    let bytes = read(path)?;
    let end = format!("{what}-----");
    if bytes.windows(end.len()).any(|window| window == end.as_bytes()) {
        Ok(bytes)
    } else {
        Err(format!("{} has no {} in PEM in it", path.display(), what.to_lowercase()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
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
            (no_text, "text is no text"),
            (ca, "missing: No such file"),
            (no_ca, "text has no certificate in PEM in it"),
            (key, "text has no certificate in PEM in it"),
        ] {
            // Port 1: nothing listens there, but it does not come to that.
            let Err(error) = connect(&config, "https://127.0.0.1:1").await else { panic!() };
            assert!(error.contains(said), "no {said} in {error}");
        }
    }
}
