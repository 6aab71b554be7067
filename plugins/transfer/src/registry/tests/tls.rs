//! https: whose certificates are believed, and as whom we come.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::proxy::Proxies;
use super::*;

/// Names that all hosts here have.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "registry.example"];

/// A directory of certificates.
struct Certificates {
    dir: tempfile::TempDir,
    root: CertifiedIssuer<'static, KeyPair>,
}

fn parameters(names: &[&str], common: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, common);
    parameters
}

fn authority(names: &[&str], common: &str) -> CertificateParams {
    let mut parameters = parameters(names, common);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters
}

impl Certificates {
    /// With `root.crt`.
    fn new() -> Self {
        let parameters = authority(&[], "the root of us");
        let root = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let certificates = Self { dir: tempfile::tempdir().unwrap(), root };
        fs::write(certificates.path("root.crt"), certificates.root.pem()).unwrap();
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `name.crt` with `name.key`, signed by the root.
    fn make(&self, name: &str, parameters: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.root).unwrap();
        self.write(name, &certificate.pem(), &key);
    }

    /// Signed by itself.
    fn make_alone(&self, name: &str, parameters: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        self.write(name, &parameters.self_signed(&key).unwrap().pem(), &key);
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.path(&format!("{name}.crt")), certificate).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// What a server with such a certificate is set up with; `wants`: the root of its clients.
    fn server(&self, name: &str, wants: Option<&str>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match wants {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(self.path(root)).unwrap()).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{name}.crt"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
        builder.with_single_cert(chain, key).unwrap()
    }

    /// Settings for all hosts.
    fn config(&self, hosts_toml: &str) -> Config {
        let dir = self.path("_default");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), hosts_toml).unwrap();
        Config { hosts_dir: self.dir.path().into(), ..config() }
    }
}

fn https() -> Access {
    Access::default()
}

async fn serve(tls: ServerConfig) -> Fake {
    Fake::serve_tls(tls, |asked| match asked.path.contains("/manifests/") {
        true => manifest(),
        false => Reply::part(asked, BLOB),
    })
    .await
}

/// The error of a pull, which is to be final.
async fn refused(config: Config, host: &str) -> Error {
    let error = repository_by(config, host, ":1", &https()).resolve().await.unwrap_err();
    assert!(!error.message().contains("attempts"), "{error}");
    error
}

#[tokio::test]
async fn a_root_of_our_own_is_believed() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    let fake = serve(certificates.server("host", None)).await;
    let own = certificates.config("ca = \"../root.crt\"");
    for host in [fake.host.clone(), fake.host.replace("127.0.0.1", "localhost")] {
        let repository = repository_by(own.clone(), &host, ":1", &https());
        repository.resolve().await.unwrap();
        assert_eq!(read(&repository, 0).await.unwrap(), BLOB);
        assert_eq!(repository.source(), format!("https://{host}/a/app"));
    }
    let connections: Vec<_> = fake.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 0, 1, 1], "they are kept");

    let error = refused(config(), &fake.host).await;
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("signed by an authority that is not known here"), "{error}");
    assert!(error.message().contains("hosts.toml"), "{error}");
    assert!(error.message().contains("--skip-verify"), "{error}");
}

#[tokio::test]
async fn docker_has_its_roots_beside() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    certificates.make("us", &parameters(&["us"], "us"));
    let fake = serve(certificates.server("host", Some("root.crt"))).await;
    let dir = certificates.path(&fake.host);
    fs::create_dir(&dir).unwrap();
    let copy = |from: &str, to: &str| fs::copy(certificates.path(from), dir.join(to)).unwrap();
    copy("root.crt", "ca.crt");
    copy("us.crt", "us.cert");
    let config = Config { hosts_dir: certificates.dir.path().into(), ..config() };
    let reference = Reference::parse(&format!("{}/a/app", fake.host)).unwrap();
    let error = Registry::new(config.clone()).repository(&reference, &https()).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("us.key is missing"), "{error}");
    copy("us.key", "us.key");
    repository_by(config, &fake.host, ":1", &https()).resolve().await.unwrap();
}

#[tokio::test]
async fn a_certificate_may_be_its_own_root() {
    let certificates = Certificates::new();
    certificates.make_alone("host", &authority(&NAMES, "as openssl makes it"));
    certificates.make_alone("other", &authority(&["other.example"], "the same for another name"));
    let own = certificates.config("ca = [\"../host.crt\", \"../other.crt\"]");
    let fake = serve(certificates.server("host", None)).await;
    repository_by(own.clone(), &fake.host, ":1", &https()).resolve().await.unwrap();

    let fake = serve(certificates.server("other", None)).await;
    let error = refused(own, &fake.host).await;
    assert!(error.message().contains("its certificate is for other names"), "{error}");
    let fake = serve(certificates.server("host", None)).await;
    let error = refused(certificates.config("ca = \"../root.crt\""), &fake.host).await;
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn a_bad_certificate_says_why() {
    let certificates = Certificates::new();
    let check = async |parameters: CertificateParams, want: &str| {
        certificates.make("host", &parameters);
        let fake = serve(certificates.server("host", None)).await;
        let config = certificates.config("ca = \"../root.crt\"");
        let error = refused(config.clone(), &fake.host).await;
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.message().contains(want), "{error}");
        assert_eq!(fake.asked().len(), 0);
        // Whoever asks for it gets it all the same.
        let access = Access { skips_verify: true, ..https() };
        repository_by(config, &fake.host, ":1", &access).resolve().await.unwrap();
        let config = certificates.config("skip_verify = true");
        repository_by(config, &fake.host, ":1", &https()).resolve().await.unwrap();
    };
    check(parameters(&["other.example"], "host"), "is for other names").await;
    let mut old = parameters(&NAMES, "host");
    old.not_after = date_time_ymd(2001, 1, 1);
    check(old, "has expired").await;
    let mut early = parameters(&NAMES, "host");
    early.not_before = date_time_ymd(4000, 1, 1);
    check(early, "is not valid yet").await;
}

#[tokio::test]
async fn a_client_has_a_certificate_where_one_is_wanted() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    certificates.make("us", &parameters(&["us"], "us"));
    certificates.make_alone("stranger", &parameters(&["stranger"], "stranger"));
    let both = [certificates.path("us.crt"), certificates.path("us.key")]
        .map(|path| fs::read_to_string(path).unwrap());
    fs::write(certificates.path("us.pem"), both.concat()).unwrap();
    let fake = serve(certificates.server("host", Some("root.crt"))).await;
    let good = [
        "client = \"../us.pem\"",
        "client = [\"../us.pem\"]",
        "client = [[\"../us.crt\", \"../us.key\"]]",
        "client = [[\"../us.pem\", \"\"]]",
        // The one that the host would know is taken.
        "client = [[\"../stranger.crt\", \"../stranger.key\"], [\"../us.crt\", \"../us.key\"]]",
    ];
    for client in good {
        let config = certificates.config(&format!("ca = \"../root.crt\"\n{client}"));
        let got = repository_by(config, &fake.host, ":1", &https()).resolve().await;
        assert!(got.is_ok(), "{client} {got:?}");
    }
    for client in ["", "client = [[\"../stranger.crt\", \"../stranger.key\"]]"] {
        let config = certificates.config(&format!("ca = \"../root.crt\"\n{client}"));
        let error = refused(config, &fake.host).await;
        assert_eq!(error.class(), Class::PermissionDenied, "{error}");
        assert!(error.message().contains("wants a client certificate"), "{error}");
    }
    let bad = [
        ("client = \"../us.crt\"", "no PEM key in it"),
        ("client = \"../us.key\"", "no PEM certificate in it"),
        ("client = \"../nothing.pem\"", "No such file"),
        ("client = [[\"../us.crt\", \"../host.key\"]]", "no key for"),
    ];
    for (client, want) in bad {
        let config = certificates.config(&format!("ca = \"../root.crt\"\n{client}"));
        let error = refused(config, &fake.host).await;
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.message().contains(want), "{error}");
    }
}

#[tokio::test]
async fn http_and_https_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 100];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // It stays open until the client has read that.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let error = refused(config(), &host).await;
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("does not speak TLS; use --plain-http"), "{error}");
    // And where the settings say that it is http, it is.
    let fake = Fake::serve(|_| manifest()).await;
    let certificates = Certificates::new();
    let config = certificates.config(&format!("server = \"http://{}\"", fake.host));
    repository_by(config, &fake.host, ":1", &https()).resolve().await.unwrap();
}

#[tokio::test]
async fn nothing_leads_from_https_into_the_open() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    let open = Fake::serve(|_| manifest()).await;
    let config = certificates.config("ca = \"../root.crt\"");
    let realm = format!("Bearer realm=\"http://{}/\"", open.host);
    let fake = Fake::serve_tls(certificates.server("host", None), move |_| {
        Reply::new(401, "").with("WWW-Authenticate", &realm)
    })
    .await;
    let error = refused(config.clone(), &fake.host).await;
    assert_eq!(error.class(), Class::PermissionDenied);
    assert!(error.message().contains("in the open; refused"), "{error}");

    let location = format!("http://{}/", open.host);
    let fake = Fake::serve_tls(certificates.server("host", None), move |_| {
        Reply::new(307, "").with("Location", &location)
    })
    .await;
    let error = refused(config, &fake.host).await;
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.message().contains("from https to http"), "{error}");
    assert_eq!(open.asked().len(), 0);
}

#[tokio::test]
async fn a_proxy_passes_bytes_on() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    let fake = serve(certificates.server("host", None)).await;
    let proxy = Fake::tunnel(&fake.host, None).await;
    let proxies = Proxies::new(&format!("http://{}", proxy.host), |_| None);
    let config = Config { proxies, ..certificates.config("ca = \"../root.crt\"") };
    let repository = repository_by(config, "registry.example", ":1", &https());
    repository.resolve().await.unwrap();
    assert_eq!(read(&repository, 0).await.unwrap(), BLOB);
    assert_eq!(proxy.asked_for(), ["registry.example:443"]);
    assert_eq!(fake.asked()[0].path, "/v2/a/app/manifests/1");
    assert_eq!(fake.asked()[0].header("host"), "registry.example");
    assert_eq!(fake.asked()[0].header("proxy-authorization"), "");
}

#[tokio::test]
async fn a_root_that_is_none_is_named() {
    let certificates = Certificates::new();
    certificates.make("host", &parameters(&NAMES, "host"));
    let fake = serve(certificates.server("host", None)).await;
    fs::write(certificates.path("bad.crt"), "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
    for (name, want) in
        [("bad.crt", ""), ("host.key", "no PEM certificate"), ("none", "No such file")]
    {
        let config = certificates.config(&format!("ca = \"../{name}\""));
        let error = refused(config, &fake.host).await;
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        let is_named = error.message().contains(&Path::new(name).display().to_string());
        assert!(is_named && error.message().contains(want), "{error}");
    }
}
