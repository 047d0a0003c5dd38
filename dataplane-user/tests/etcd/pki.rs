//! Certificates, good and bad.

use std::{fs, net::IpAddr, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;
use tunless_lab::etcd::Tls;

/// An authority and a directory for all it signs.
pub struct Pki {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate.
    pub ca_file: PathBuf,
}

/// A certificate and its key.
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Pki {
    /// A new authority.
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca_file = dir.path().join("ca.pem");
        fs::write(&ca_file, ca.pem()).unwrap();
        Self { dir, ca, ca_file }
    }

    /// Signs a certificate for an address, or for a user when there is none.
    pub fn sign(&self, name: &str, address: Option<IpAddr>, expired: bool) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = address.map(SanType::IpAddress).into_iter().collect();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let pair = Pair {
            certificate: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// What a server needs.
    pub fn server(&self, pair: &Pair, ask_clients: bool) -> Tls {
        Tls {
            ca: self.ca_file.clone(),
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            ask_clients,
        }
    }
}
