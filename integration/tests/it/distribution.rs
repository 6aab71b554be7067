//! Registries as they are guarded: every way to be let in, pulled from and pushed to, with all that can have a name.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use capstan_integration::{
    Authority, DockerRegistry, FaultProxy, Guard, Host, Identity, Image, Layer, PASSWORD,
    REFRESH_TOKEN, TokenServer, Trouble, USER, architecture, digest, find, http, noise,
};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::archive::digest_of;

/// How a registry knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Auth {
    None,
    Basic,
    /// By a token server, for a password.
    Token,
    /// By a token server, for an identity token (`--refresh`).
    Identity,
}

/// How it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Off,
    OwnRoot,
    ClientCertificate,
}

/// One registry, guarded, and the same storage for everybody; a daemon that knows the way.
struct World {
    host: Host,
    guarded: DockerRegistry,
    open: DockerRegistry,
    tokens: Option<TokenServer>,
    tls: Tls,
    /// `USER:PASSWORD`, or an identity token; empty: none is needed.
    login: String,
    certs: PathBuf,
    _authority: Authority,
}

impl World {
    fn new(auth: Auth, tls: Tls) -> Self {
        let open = DockerRegistry::empty();
        let authority = Authority::new();
        let tokens = matches!(auth, Auth::Token | Auth::Identity).then(|| match tls {
            Tls::Off => TokenServer::start(),
            _ => TokenServer::by_https(&authority),
        });
        let mut guard = Guard::new();
        if tls != Tls::Off {
            guard = guard.https(&authority);
        }
        if tls == Tls::ClientCertificate {
            guard = guard.client_certificate();
        }
        guard = match (auth, &tokens) {
            (Auth::Basic, _) => guard.password(),
            (_, Some(tokens)) => guard.tokens(tokens),
            _ => guard,
        };
        let guarded = DockerRegistry::guarded(open.storage(), &guard);

        let mut host = Host::without_daemon(4096);
        let client = (tls == Tls::ClientCertificate).then(|| authority.client());
        let certs = host.path("skopeo");
        authority.write_certs_dir(&certs, client.as_ref());
        let hosts = host.path("certs.d");
        if tls != Tls::Off {
            write_hosts(&hosts, &guarded.address(), &authority, client.as_ref());
        }
        host.configure(&transfer_section(&hosts, ""));
        host.start();
        Self {
            host,
            guarded,
            open,
            tokens,
            tls,
            login: match auth {
                Auth::None => String::new(),
                Auth::Basic | Auth::Token => format!("{USER}:{PASSWORD}"),
                Auth::Identity => REFRESH_TOKEN.to_owned(),
            },
            certs,
            _authority: authority,
        }
    }

    /// `capstan images VERB` with what it takes to be let in.
    fn args<'a>(&self, verb: &'a str, login: &'a str, words: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["images", verb];
        if self.tls == Tls::Off {
            args.push("--plain-http");
        }
        args.extend(credentials(login));
        args.extend(words);
        args
    }

    fn ok(&self, verb: &str, words: &[&str]) -> String {
        self.host.ok(&self.args(verb, &self.login, words))
    }

    /// The digest of what skopeo gets, by the guarded way.
    fn seen_by_skopeo(&self, reference: &str) -> String {
        let mut command = Command::new(find("skopeo"));
        command.args(["inspect", "--raw"]);
        match self.tls {
            Tls::Off => command.arg("--tls-verify=false"),
            _ => command.arg("--cert-dir").arg(&self.certs),
        };
        if !self.login.is_empty() {
            command.args(["--creds", &format!("{USER}:{PASSWORD}")]);
        }
        let output = command.arg(format!("docker://{reference}")).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo inspect {reference}: {errors}");
        digest(&output.stdout)
    }
}

/// The words of a login.
fn credentials(login: &str) -> Vec<&str> {
    match login {
        "" => Vec::new(),
        password if password.contains(':') => vec!["--user", password],
        token => vec!["--refresh", token],
    }
}

/// Writes into the directory of hosts whose root a host at an address has, and as whom to come to it.
pub(crate) fn write_hosts(
    hosts: &Path,
    address: &str,
    authority: &Authority,
    client: Option<&Identity>,
) {
    let dir = hosts.join(address);
    std::fs::create_dir_all(&dir).unwrap();
    let mut text = format!(
        "server = \"https://{address}\"\n[host.\"https://{address}\"]\nca = {:?}\n",
        authority.root()
    );
    if let Some(client) = client {
        text.push_str(&format!("client = [[{:?}, {:?}]]\n", client.certificate, client.key));
    }
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

/// `[plugins."transfer.local"]` with the directory of hosts, and nothing of this machine's own.
pub(crate) fn transfer_section(hosts: &Path, more: &str) -> String {
    format!(
        "[plugins.\"transfer.local\"]\nhosts_dir = {hosts:?}\ncredentials_file = {:?}\n{more}\n",
        hosts.join("auth.json")
    )
}

/// Every blob of these is here, with its bytes.
pub(crate) fn assert_here<'a>(
    host: &Host,
    image: &Image,
    digests: impl Iterator<Item = &'a String>,
) {
    for name in digests {
        let output = host.command(&["content", "get", name]).output().unwrap();
        assert!(output.status.success(), "{name} is not here");
        assert!(output.stdout == image.blobs[name], "{name} has other bytes");
    }
}

/// The snapshots of an image's layers are here, and a mount of it has each file of [`layers`] with its bytes.
fn assert_unpacked(host: &Host, name: &str, image: &Image) {
    let snapshots = host.ids(&["snapshots", "ls"]);
    for chain_id in image.chain_ids() {
        assert!(snapshots.contains(&chain_id), "{name}: {chain_id} is not among {snapshots:?}");
    }
    let dir = host.path("unpacked");
    std::fs::create_dir_all(&dir).unwrap();
    let dir_name = dir.to_str().unwrap();
    host.ok(&["images", "mount", name, dir_name]);
    for layer in &image.layers {
        let mut tar = Vec::new();
        GzDecoder::new(&image.blobs[layer][..]).read_to_end(&mut tar).unwrap();
        for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = dir.join(entry.path().unwrap());
            if entry.header().entry_type().is_file() {
                let mut want = Vec::new();
                entry.read_to_end(&mut want).unwrap();
                assert!(std::fs::read(&path).unwrap() == want, "{}", path.display());
            } else {
                assert!(path.is_dir(), "{}", path.display());
            }
        }
    }
    host.ok(&["images", "umount", dir_name]);
}

/// Whether a registry that is open to all has the blobs of an image in a repository.
pub(crate) fn assert_there(address: &str, repository: &str, image: &Image) {
    for (name, bytes) in &image.blobs {
        let is_document =
            bytes.starts_with(b"{\"") && bytes.windows(13).any(|at| at == b"schemaVersion");
        let kind = if is_document { "manifests" } else { "blobs" };
        let accept = [("Accept", image_types())];
        let path = format!("/v2/{repository}/{kind}/{name}");
        let answer = http::ask(address, "GET", &path, &accept, b"");
        assert_eq!(answer.status(), 200, "{path}");
        assert!(&answer.body == bytes, "{path} has other bytes");
    }
}

fn image_types() -> &'static str {
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json"
}

/// A small image of two layers.
pub(crate) fn small(seed: u32) -> Image {
    Image::new(layers(seed))
}

pub(crate) fn layers(seed: u32) -> Vec<Layer> {
    let text = format!("image {seed}\n");
    vec![
        Layer::new().dir("etc").file("etc/issue", 0o644, text.as_bytes()),
        Layer::new().dir("data").file("data/noise", 0o644, &noise(50_000, seed)),
    ]
}

/// An index of this machine's architecture and of another one.
pub(crate) fn index(seed: u32) -> Image {
    let other = if architecture() == "s390x" { "ppc64le" } else { "s390x" };
    let elsewhere = Image::of_architecture(layers(seed + 1000), other);
    Image::index(&[(other, &elsewhere), (architecture(), &small(seed))])
}

pub(crate) fn artifact(seed: u32) -> Image {
    let blobs = vec![noise(20_000, seed), format!("bill of materials {seed}").into_bytes()];
    Image::artifact("application/vnd.example.bill.v1", blobs, None)
}

/// All six of a registry: pull and push of an image, an index, an artifact.
fn six(auth: Auth, tls: Tls) {
    let world = World::new(auth, tls);
    // With what of it is unpacked.
    let kinds = [
        ("image", small(1), Some(small(1))),
        ("index", index(2), Some(small(2))),
        ("artifact", artifact(3), None),
    ];
    for (kind, image, unpacked) in &kinds {
        let what = format!("{kind}, {auth:?}, {tls:?}");
        image.push_to(&world.open.address(), kind, "latest");
        let name = world.guarded.reference(kind);
        assert_eq!(world.seen_by_skopeo(&name), image.manifest, "{what}: the fixture");
        assert_denied(&world, &name);

        // The whole index is to be pushed again, so the whole is pulled.
        let words = ["--all-platforms", &name];
        let words = if *kind == "index" { &words[..] } else { &words[1..] };
        let line = world.ok("pull", words);
        assert_eq!(line, format!("{name}  {}\n", image.manifest), "{what}: pull");
        assert_eq!(digest_of(&world.host, &name), image.manifest, "{what}: pull");
        assert_here(&world.host, image, image.blobs.keys());
        if let Some(unpacked) = unpacked {
            assert_unpacked(&world.host, &name, unpacked);
        }

        let repository = format!("pushed/{kind}");
        let pushed = format!("{}/{repository}:1", world.guarded.address());
        let line = world.ok("push", &[&pushed, &name]);
        assert_eq!(line, format!("{pushed}  {}\n", image.manifest), "{what}: push");
        assert_eq!(world.seen_by_skopeo(&pushed), image.manifest, "{what}: push");
        assert_there(&world.open.address(), &repository, image);
    }
    if let Some(tokens) = &world.tokens {
        let asked = tokens.asked();
        let granted: Vec<_> = asked.iter().filter(|asked| asked.is_granted).collect();
        let has = |scope: &str| granted.iter().any(|one| one.scopes.iter().any(|s| s == scope));
        assert!(has("repository:image:pull"), "{asked:?}");
        assert!(has("repository:pushed/image:pull,push"), "{asked:?}");
        // skopeo always comes with the password.
        let has_grant = granted.iter().any(|one| one.grant == "refresh_token");
        assert_eq!(has_grant, auth == Auth::Identity, "{asked:?}");
    }
    assert_quiet(&world.host, &[PASSWORD, REFRESH_TOKEN]);
}

/// Without what it takes nothing is let out, and what is said is one line with its class.
fn assert_denied(world: &World, name: &str) {
    let before = world.host.ids(&["content", "ls"]);
    if !world.login.is_empty() {
        for login in ["", "tester:wrong-canary", "nobody:wrong-canary", "wrong-canary"] {
            if login == "wrong-canary" && world.tokens.is_none() {
                continue;
            }
            let output = world.host.capstan(&world.args("pull", login, &[name]));
            assert_eq!(output.code, 8, "{login}: {}", output.stderr);
            assert!(output.stderr.starts_with("capstan: PermissionDenied: "), "{}", output.stderr);
            assert!(output.stderr.contains("capstan login"), "{}", output.stderr);
            assert!(!output.stderr.contains("wrong-canary"), "{}", output.stderr);
        }
    }
    if world.tls == Tls::Off {
        // https is never left out unasked.
        let mut args = vec!["images", "pull"];
        args.extend(credentials(&world.login));
        args.push(name);
        let output = world.host.capstan(&args);
        assert_ne!(output.code, 0, "http although nobody asked for it: {}", output.stdout);
        assert!(!output.stderr.contains(PASSWORD), "{}", output.stderr);
    }
    assert_eq!(world.host.ids(&["content", "ls"]), before);
}

/// Nothing that is secret is in the log, and nothing that can be asked says it.
pub(crate) fn assert_quiet(host: &Host, canaries: &[&str]) {
    let mut said = vec![("the log", host.log())];
    let asked: [&[&str]; 7] = [
        &["events", "--since", "0"],
        &["images", "ls"],
        &["content", "ls"],
        &["leases", "ls"],
        &["plugins", "ls"],
        &["plugins", "config", "transfer.local"],
        &["info"],
    ];
    for args in asked {
        let mut json = vec!["--format", "json"];
        json.extend(args);
        said.push((args[0], host.ok(&json)));
    }
    for image in host.ids(&["images", "ls"]) {
        said.push(("images inspect", host.ok(&["images", "inspect", &image])));
    }
    for (place, text) in &said {
        for canary in canaries {
            let line = text.lines().find(|line| line.contains(canary));
            assert_eq!(line, None, "{canary} is in {place}");
        }
    }
    // Where it is on the disk, too.
    let mut grep = Command::new(find("grep"));
    grep.args(["-rlaF"]);
    canaries.iter().for_each(|canary| {
        grep.args(["-e", canary]);
    });
    let output = grep.arg(host.root()).arg(host.state()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "a secret is on the disk");
}

macro_rules! matrix {
    ($($name:ident: $auth:ident, $tls:ident;)*) => {
        $(#[test]
        fn $name() {
            six(Auth::$auth, Tls::$tls);
        })*
    };
}

matrix! {
    without_auth_by_http: None, Off;
    without_auth_by_https_with_a_root_of_its_own: None, OwnRoot;
    without_auth_by_https_with_a_client_certificate: None, ClientCertificate;
    with_a_password_by_http: Basic, Off;
    with_a_password_by_https_with_a_root_of_its_own: Basic, OwnRoot;
    with_a_password_by_https_with_a_client_certificate: Basic, ClientCertificate;
    with_tokens_by_http: Token, Off;
    with_tokens_by_https_with_a_root_of_its_own: Token, OwnRoot;
    with_tokens_by_https_with_a_client_certificate: Token, ClientCertificate;
    with_an_identity_token_by_http: Identity, Off;
    with_an_identity_token_by_https_with_a_root_of_its_own: Identity, OwnRoot;
    with_an_identity_token_by_https_with_a_client_certificate: Identity, ClientCertificate;
}

/// A root that nobody vouches for is refused, and what to do is said; `--skip-verify` does without. A registry that wants
/// a certificate of its client says no to one without.
#[test]
fn certificates_that_are_not_right_are_refused() {
    let authority = Authority::new();
    let open = DockerRegistry::empty();
    let image = small(4);
    image.push_to(&open.address(), "app", "latest");
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().https(&authority));
    let wants = Guard::new().https(&authority).client_certificate();
    let wants = DockerRegistry::guarded(open.storage(), &wants);
    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    host.configure(&transfer_section(&hosts, ""));
    host.start();

    let name = guarded.reference("app");
    let says = ["certificate", "hosts.toml", "--skip-verify"];
    host.fails(&["images", "pull", &name], 6, "FailedPrecondition", &says);
    host.ok(&["images", "pull", "--no-unpack", "-k", &name]);
    assert_eq!(digest_of(&host, &name), image.manifest);
    host.ok(&["images", "rm", &name]);
    // Files are read at each use.
    write_hosts(&hosts, &guarded.address(), &authority, None);
    host.ok(&["images", "pull", "--no-unpack", &name]);
    // Another root than the right one.
    let other = Authority::new();
    write_hosts(&hosts, &guarded.address(), &other, None);
    host.fails(&["images", "pull", &name], 6, "FailedPrecondition", &["certificate"]);

    let name = wants.reference("app");
    write_hosts(&hosts, &wants.address(), &authority, None);
    let output = host.capstan(&["images", "pull", "--no-unpack", &name]);
    assert_ne!(output.code, 0, "{}", output.stdout);
    assert!(output.stderr.contains("certificate"), "{}", output.stderr);
    let client = authority.client();
    write_hosts(&hosts, &wants.address(), &authority, Some(&client));
    host.ok(&["images", "pull", "--no-unpack", &name]);
    assert_eq!(digest_of(&host, &name), image.manifest);
}

/// One token is enough for a pull; one that ends in the middle, or that the registry does not take any more, is fetched
/// anew; and there is an end to that.
#[test]
fn tokens_are_fetched_anew_when_they_end() {
    let open = DockerRegistry::empty();
    let tokens = TokenServer::start();
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().tokens(&tokens));
    let proxy = FaultProxy::before(&guarded.address());
    let image = small(5);
    image.push_to(&open.address(), "app", "latest");
    let mut host = Host::without_daemon(1024);
    host.configure(&transfer_section(&host.path("certs.d"), ""));
    host.start();
    let name = proxy.reference("app");
    let login = format!("{USER}:{PASSWORD}");
    let pull = ["images", "pull", "--plain-http", "--no-unpack", "--user", &login, &name];
    // A pull as if it were the first; answers how many tokens it took.
    let tokens_of_a_pull = || {
        for digest in host.ids(&["content", "ls"]) {
            host.ok(&["content", "rm", &digest]);
        }
        let before = tokens.asked().len();
        host.ok(&pull);
        tokens.asked().len() - before
    };
    assert_eq!(tokens_of_a_pull(), 1);

    // The registry does not take it any more: once for each layer, at most.
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"{}\",scope=\"repository:app:pull\",error=\"invalid_token\"",
        tokens.realm(),
        TokenServer::SERVICE
    );
    let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
    proxy.make(1, "GET", &image.layers[0], Trouble::Answer(401, headers, Vec::new()));
    assert_eq!(tokens_of_a_pull(), 2);

    // It ends by its own word.
    proxy.behave();
    tokens.set_lifetime(1);
    proxy.make(usize::MAX, "GET", "", Trouble::Delay(Duration::from_millis(1200)));
    let taken = tokens_of_a_pull();
    assert!((2..=4).contains(&taken), "{taken}");
    proxy.behave();
    tokens.set_lifetime(300);

    // A server that takes no forms gets a query with the password.
    tokens.take_forms(false);
    assert_eq!(tokens_of_a_pull(), 2);
    let last = tokens.asked().pop().unwrap();
    assert_eq!((last.method.as_str(), last.is_granted), ("GET", true));
    tokens.take_forms(true);

    // Tokens that are worth nothing: an end is found.
    tokens.give_worthless(1000);
    host.ok(&["images", "rm", &name]);
    let before = tokens.asked().len();
    host.fails(&pull, 8, "PermissionDenied", &["capstan login"]);
    assert!(tokens.asked().len() - before <= 6, "{:?}", tokens.asked());
    assert_quiet(&host, &[PASSWORD, REFRESH_TOKEN]);
}

/// So is one that is not taken any more in the middle of a push: where a blob begins, at its end, or at the name
/// (D67, D68).
#[test]
fn tokens_that_end_in_a_push_are_fetched_anew() {
    let open = DockerRegistry::empty();
    let tokens = TokenServer::start();
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().tokens(&tokens));
    let proxy = FaultProxy::before(&guarded.address());
    let mut host = Host::without_daemon(1024);
    host.configure(&transfer_section(&host.path("certs.d"), ""));
    host.start();
    let login = format!("{USER}:{PASSWORD}");
    let places = [("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")];
    for (seed, (method, place)) in (710..).zip(places) {
        // Each of its own, so that nothing is mounted.
        let image = small(seed);
        let (app, repository) = (format!("app-{seed}"), format!("pushed-{seed}"));
        image.push_to(&open.address(), &app, "latest");
        let source = open.reference(&app);
        host.ok(&["images", "pull", "--plain-http", "--no-unpack", &source]);
        let challenge = format!(
            "Bearer realm=\"{}\",service=\"{}\",scope=\"repository:{repository}:pull,push\",\
             error=\"invalid_token\"",
            tokens.realm(),
            TokenServer::SERVICE
        );
        let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
        proxy.behave();
        proxy.make(1, method, place, Trouble::Answer(401, headers, Vec::new()));
        let before = tokens.asked().len();
        let name = format!("{}/{repository}:1", proxy.address());
        host.ok(&["images", "push", "--plain-http", "--user", &login, &name, &source]);
        assert_there(&open.address(), &repository, &image);
        assert_eq!(tokens.asked().len() - before, 2, "{method} {place}: {:?}", tokens.asked());
    }
    assert_quiet(&host, &[PASSWORD, REFRESH_TOKEN]);
}

/// The daemon's own file has credentials for those who bring none, if nobody else can read it.
#[test]
fn the_daemon_has_credentials_of_its_own() {
    let open = DockerRegistry::empty();
    let guarded = DockerRegistry::guarded(open.storage(), &Guard::new().password());
    let image = small(6);
    image.push_to(&open.address(), "app", "latest");
    let mut host = Host::without_daemon(1024);
    let hosts = host.path("certs.d");
    std::fs::create_dir_all(&hosts).unwrap();
    let auth: Value = serde_json::json!({ "auths": { guarded.address(): {
        "username": USER, "password": PASSWORD,
    } } });
    let file = hosts.join("auth.json");
    let write = |mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&file, auth.to_string()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    host.configure(&transfer_section(&hosts, ""));
    host.start();
    let name = guarded.reference("app");
    let args = ["images", "pull", "--plain-http", "--no-unpack", &name];
    write(0o644);
    let output = host.capstan(&args);
    assert_ne!(output.code, 0, "a file that all can read is used");
    assert!(output.stderr.contains("auth.json"), "{}", output.stderr);
    write(0o600);
    host.ok(&args);
    assert_eq!(digest_of(&host, &name), image.manifest);
}
