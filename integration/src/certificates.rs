//! Certificates of a root that nobody else knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

/// How servers of tests are called; the last by those only who reach it through a proxy.
pub(crate) const SERVER_NAMES: &[&str] = &["127.0.0.1", "localhost", "registry.example"];

/// A root, with what it vouches for: servers on this machine, and one client.
#[derive(Debug)]
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with its root in a file.
    pub fn new() -> Self {
        let mut params = params("a root of tests", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let root = CertifiedIssuer::self_signed(params, key()).expect("sign a root");
        let dir = tempfile::Builder::new().prefix("root-").tempdir().expect("make a directory");
        fs::write(dir.path().join("root.crt"), root.pem()).expect("write a root");
        Self { root, dir }
    }

    /// The root's certificate.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root.crt")
    }

    /// For a server at these names and addresses.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.issue("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client.
    pub fn client(&self) -> Identity {
        self.issue("client", &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = params(name, names);
        params.extended_key_usages = vec![usage];
        let key = key();
        let certificate = params.signed_by(&key, &self.root).expect("sign a certificate");
        let identity = Identity {
            certificate: self.dir.path().join(format!("{name}.cert")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        fs::write(&identity.certificate, certificate.pem()).expect("write a certificate");
        fs::write(&identity.key, key.serialize_pem()).expect("write a key");
        identity
    }

    /// What a server of our own needs to be reached by https at the loopback.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        let key = key();
        let certificate =
            params("server", SERVER_NAMES).signed_by(&key, &self.root).expect("sign a certificate");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key is that of the certificate");
        Arc::new(config)
    }

    /// Makes a directory of certificates as skopeo and docker have it: `ca.crt`, `client.cert`, `client.key`.
    pub fn write_certs_dir(&self, dir: &Path, client: Option<&Identity>) {
        fs::create_dir_all(dir).expect("make a directory");
        fs::copy(self.root(), dir.join("ca.crt")).expect("copy a root");
        if let Some(client) = client {
            fs::copy(&client.certificate, dir.join("client.cert")).expect("copy a certificate");
            fs::copy(&client.key, dir.join("client.key")).expect("copy a key");
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().expect("make a key")
}

pub(crate) fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("they are names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
