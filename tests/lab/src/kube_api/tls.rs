//! HTTPS with an authority and a certificate of our own.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A server's certificate.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    authority_pem: String,
}

impl Tls {
    /// One that is valid.
    pub fn valid() -> Result<Self> {
        Self::until(4096, Ipv4Addr::LOCALHOST)
    }

    /// One that is valid for a server elsewhere than on loopback.
    pub fn valid_for(address: Ipv4Addr) -> Result<Self> {
        Self::until(4096, address)
    }

    /// One that was valid until some years ago.
    pub fn expired() -> Result<Self> {
        Self::until(2020, Ipv4Addr::LOCALHOST)
    }

    fn until(year: i32, address: Ipv4Addr) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?;
        let authority_pem = authority.pem();
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(vec![address.to_string()])?;
        params.not_before = date_time_ymd(2010, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self { config: Arc::new(config), authority_pem })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority_pem
    }

    /// The same as a kubeconfig has it.
    pub(super) fn authority_base64(&self) -> String {
        base64(self.authority_pem.as_bytes())
    }

    pub(super) fn accept(&self, socket: TcpStream) -> Result<impl Read + Write + use<>> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).context("TLS")?;
        Ok(StreamOwned::new(connection, socket))
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let is_there = digit <= group.len();
            let digit = DIGITS.get(index as usize).copied().unwrap_or(b'=');
            text.push(char::from(if is_there { digit } else { b'=' }));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
