//! TLS: who is believed to be a host, and as whom we come to it.

use std::error::Error as StdError;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use capstan_sdk::{Class, Error, Result, blocking};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use tracing::warn;

use super::url::Url;

/// What is set for a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Files of roots that are believed besides those of the system.
    pub(super) roots: Vec<PathBuf>,
    /// Files of certificates for us, each with the file of its key.
    pub(super) identities: Vec<(PathBuf, PathBuf)>,
    /// Whoever answers is believed.
    pub(super) skips_verify: bool,
}

/// What was made of such settings, for as long as one thing is done; so that changed files are
/// read anew for the next. The roots of the system are kept for longer.
#[derive(Debug, Default)]
pub(super) struct Configs {
    made: Mutex<Vec<(Arc<Tls>, Arc<ClientConfig>)>>,
}

impl Configs {
    /// What `tls` comes to.
    ///
    /// # Errors
    /// `FailedPrecondition`: a file of it cannot be read, or has something else in it.
    pub(super) async fn get(&self, tls: &Arc<Tls>) -> Result<Arc<ClientConfig>> {
        {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, config)) = made.iter().find(|(of, _)| of == tls) {
                return Ok(Arc::clone(config));
            }
        }
        let of = Arc::clone(tls);
        let config = blocking::run("read certificates", move || make(&of)).await?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push((Arc::clone(tls), Arc::clone(&config)));
        Ok(config)
    }
}

fn make(tls: &Tls) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS: {error}")))?;
    let verifier: Arc<dyn ServerCertVerifier> = match tls.skips_verify {
        true => Arc::new(Whoever(Arc::clone(&provider))),
        false => verifier(&tls.roots, &provider)?,
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identities(&tls.identities, &provider)? {
        identities if identities.is_empty() => builder.with_no_client_auth(),
        identities => builder.with_client_cert_resolver(Arc::new(Identities(identities))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::precondition(format!("{}: {why}; correct it, or what names it", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = fs::read(path).map_err(|error| bad(path, error))?;
    let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(bad(path, "no PEM certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(bad(path, error)),
    }
}

/// What was read from files, for as long as they stay as they are.
struct Kept<T>(Mutex<Option<(Stamp, Arc<T>)>>);

/// Files, each with when it was last changed and how long it is; or that it is not there.
type Stamp = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

impl<T> Kept<T> {
    fn get(&self, stamp: Stamp, read: impl FnOnce() -> T) -> Arc<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, read)) if *of == stamp => Arc::clone(read),
            _ => {
                let read = Arc::new(read());
                *kept = Some((stamp, Arc::clone(&read)));
                read
            }
        }
    }
}

fn stamp(paths: impl IntoIterator<Item = PathBuf>) -> Stamp {
    let look = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    paths.into_iter().map(|path| (path.clone(), look(&path))).collect()
}

/// The roots of the system: to read all of them takes longer than a handshake.
fn system() -> Arc<RootCertStore> {
    static SYSTEM: Kept<RootCertStore> = Kept(Mutex::new(None));
    let places = openssl_probe::probe();
    let places = places.cert_file.into_iter().chain(places.cert_dir);
    SYSTEM.get(stamp(places), || {
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            warn!(%error, "a root of the system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        // One in a hundred is of a kind that nobody uses any more.
        roots.add_parsable_certificates(system.certs);
        roots
    })
}

fn verifier(paths: &[PathBuf], provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>> {
    let mut roots = system();
    let mut own = Vec::new();
    for path in paths {
        for certificate in certificates(path)? {
            Arc::make_mut(&mut roots).add(certificate.clone()).map_err(|error| bad(path, error))?;
            own.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(Error::precondition(
            "https: this machine knows no root certificates; install its ca-certificates, or name \
             one as `ca` in hosts.toml of the registry",
        ));
    }
    let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    let inner = inner.build().map_err(|error| Error::internal(format!("TLS: {error}")))?;
    Ok(Arc::new(Verifier { inner, own }))
}

fn identities(
    paths: &[(PathBuf, PathBuf)],
    provider: &CryptoProvider,
) -> Result<Vec<Arc<CertifiedKey>>> {
    let mut identities = Vec::new();
    for (certificate, key) in paths {
        let chain = certificates(certificate)?;
        let der = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
            pem::Error::NoItemsFound => bad(key, "no PEM key in it"),
            // What else it says may be of the key.
            pem::Error::Io(error) => bad(key, error),
            _ => bad(key, "the PEM key in it is damaged"),
        })?;
        let made = CertifiedKey::from_der(chain, der, provider);
        let made = made.map_err(|error| {
            bad(key, format_args!("no key for {}: {error}", certificate.display()))
        })?;
        identities.push(Arc::new(made));
    }
    Ok(identities)
}

/// The usual rules, and one more: the very certificate that a user names as a root may also be the
/// host's own, as `openssl req -x509` makes it and the peers of this program take it.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Its dates were looked at before.
            Err(error) if is_root(&error) && self.own.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Whether all that is wrong with a host's certificate is that it is one of an authority.
fn is_root(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    // The type is that of a crate further below.
    format!("{:?}", other.0) == "CaUsedAsEndEntity"
}

/// Whoever answers is believed, also to have the key of what it shows.
#[derive(Debug)]
struct Whoever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// As whom we may come.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(&self, wanted: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |identity: &CertifiedKey| {
            // A certificate has the names of its subject and of its issuer in it as they are here.
            let has = |name: &[u8]| {
                let mut chain = identity.cert.iter();
                chain.any(|der| der.windows(name.len().max(1)).any(|part| part == name))
            };
            identity.key.choose_scheme(schemes).is_some()
                && (wanted.is_empty() || wanted.iter().any(|name| has(name)))
        };
        let found = self.0.iter().find(|identity| fits(identity));
        // Somebody who wants others may still take the only one there is.
        found.or_else(|| self.0.first().filter(|_| self.0.len() == 1)).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Says what an error of TLS means, if it is one, and what to do. It is final, where the next
/// attempt would meet it too.
pub(super) fn explain(url: &Url, error: &(dyn StdError + 'static)) -> Option<Error> {
    let host = &url.host;
    let certificate = |why: &str| {
        Error::precondition(format!(
            "registry {host}: its certificate {why}; name the root that signs it as `ca` in \
             {host}/hosts.toml of the daemon's certs.d, or use --skip-verify"
        ))
    };
    let error = match find(error)? {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::UnknownIssuer => {
                certificate("is signed by an authority that is not known here")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Error::precondition(format!(
                    "registry {host}: its certificate has expired; have it renewed, or check the clock here"
                ))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Error::precondition(format!(
                    "registry {host}: its certificate is not valid yet; check the clock here"
                ))
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Error::precondition(format!(
                    "registry {host}: its certificate is for other names; use one of these, have \
                     it made anew with this one as a subject alternative name, or use --skip-verify"
                ))
            }
            CertificateError::Other(other) => certificate(&format!("is refused ({:?})", other.0)),
            other => certificate(&format!("is refused ({other})")),
        },
        rustls::Error::InvalidMessage(_) => Error::precondition(format!(
            "registry {host}: what answers does not speak TLS; use --plain-http if it is to be \
             reached by http"
        )),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure => Error::new(
                Class::PermissionDenied,
                format!(
                    "registry {host}: it ends the TLS handshake ({alert:?}), as one does that \
                     wants a client certificate; name one that it knows as `client` in \
                     {host}/hosts.toml of the daemon's certs.d"
                ),
            ),
            other => Error::precondition(format!(
                "registry {host}: it ends the TLS handshake ({other:?}); check how it is set up"
            )),
        },
        rustls::Error::PeerIncompatible(why) => Error::precondition(format!(
            "registry {host}: no common way of TLS 1.2 or 1.3 ({why:?}); update it"
        )),
        // Something broke off, or was garbled on its way.
        _ => return None,
    };
    Some(error)
}

/// The error of TLS among the causes of another one.
fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An error of input and output has its inner one beside its cause.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_kept_until_its_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        let kept = Kept(Mutex::new(None));
        let get = || *kept.get(stamp([path.clone()]), || fs::read(&path).map(|b| b.len()).ok());
        assert_eq!((get(), get()), (None, None));
        fs::write(&path, "one").unwrap();
        assert_eq!(get(), Some(3));
        fs::write(&path, "three").unwrap();
        assert_eq!(get(), Some(5));
        // The same length, later.
        fs::write(&path, "seven").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let mut reads = 0;
        kept.get(stamp([path.clone()]), || {
            reads += 1;
            Some(5)
        });
        kept.get(stamp([path.clone()]), || panic!("nothing has changed"));
        assert_eq!(reads, 1);
        assert!(Arc::ptr_eq(&system(), &system()), "the system's are read once");
    }
}
