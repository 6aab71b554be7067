//! A token server, as registries send their clients to: forms (OAuth 2) or queries with a password, refresh tokens, and
//! tokens that are worthless although they do not say so.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificates::{Authority, key, params};
use crate::docker_registry::{PASSWORD, USER};
use crate::http::{LOOPBACK, Message, Stream, decode, listen};

/// Who signs, as the registry is told.
pub(crate) const ISSUER: &str = "issuer of tests";

/// For whom, as the registry is told.
pub(crate) const SERVICE: &str = "registry of tests";

/// What is given to those who ask for a refresh token. A canary too: it is to be seen nowhere.
pub const REFRESH_TOKEN: &str = "canary-refresh-token-5f1e";

/// What it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, or `POST` for a form.
    pub method: String,
    /// `password`, `refresh_token`, or empty for a query.
    pub grant: String,
    /// The scopes, in the words of who asks.
    pub scopes: Vec<String>,
    /// Whether it was given a token.
    pub is_granted: bool,
}

#[derive(Debug)]
struct State {
    lifetime: u64,
    worthless: usize,
    knows_forms: bool,
    asked: Vec<Asked>,
}

struct Signer {
    key: KeyPair,
    /// The certificate as tokens carry it.
    certificate: String,
}

/// A running one. Its threads end with the process.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    is_https: bool,
    state: Arc<Mutex<State>>,
    dir: TempDir,
}

impl TokenServer {
    /// For whom its tokens are.
    pub const SERVICE: &'static str = SERVICE;

    /// One that is reached by http.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// One that is reached by https.
    pub fn by_https(authority: &Authority) -> Self {
        Self::with(Some(authority))
    }

    fn with(authority: Option<&Authority>) -> Self {
        let key = key();
        let certificate = params(ISSUER, &[]).self_signed(&key).expect("sign a certificate");
        let dir = tempfile::Builder::new().prefix("tokens-").tempdir().expect("make a directory");
        fs::write(dir.path().join("signer.crt"), certificate.pem()).expect("write a certificate");
        let state = State { lifetime: 300, worthless: 0, knows_forms: true, asked: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let signer = Signer { key, certificate: STANDARD.encode(certificate.der()) };
        let shared = Arc::clone(&state);
        let address = listen(LOOPBACK, authority.map(Authority::tls), move |stream| {
            serve(stream, &signer, &shared)
        });
        Self { address, is_https: authority.is_some(), state, dir }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What the registry sends its clients to.
    pub fn realm(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}/token", self.address)
    }

    /// The certificate of who signs, which the registry trusts.
    pub fn signer(&self) -> PathBuf {
        Path::new(self.dir.path()).join("signer.crt")
    }

    /// For how many seconds tokens are good, as it tells. 300 at first.
    pub fn set_lifetime(&self, seconds: u64) {
        self.state().lifetime = seconds;
    }

    /// The next tokens are out of date already, although they tell otherwise.
    pub fn give_worthless(&self, count: usize) {
        self.state().worthless = count;
    }

    /// Whether it takes forms. It does at first.
    pub fn take_forms(&self, knows_forms: bool) {
        self.state().knows_forms = knows_forms;
    }

    /// What it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }
}

fn serve(stream: &mut Stream, signer: &Signer, state: &Mutex<State>) -> io::Result<()> {
    while let Some(request) = Message::read(stream)? {
        let mut answer = answer(&request, signer, state);
        answer.set("Content-Type", "application/json");
        answer.write(stream.get_mut())?;
    }
    Ok(())
}

fn answer(request: &Message, signer: &Signer, state: &Mutex<State>) -> Message {
    let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
    if path != "/token" {
        return refuse(404);
    }
    let is_form = request.method() == "POST";
    let text = if is_form { String::from_utf8_lossy(&request.body) } else { query.into() };
    let fields: Vec<(String, String)> = text
        .split('&')
        .filter_map(|field| field.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let scopes: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name == "scope")
        .flat_map(|(_, value)| value.split(' '))
        .map(str::to_owned)
        .collect();
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let grant = field("grant_type").to_owned();
    let is_granted = field("service") == SERVICE
        && match (is_form, grant.as_str()) {
            (false, _) => request.header("authorization") == Some(basic.as_str()),
            (true, "password") => field("username") == USER && field("password") == PASSWORD,
            (true, "refresh_token") => field("refresh_token") == REFRESH_TOKEN,
            (true, _) => false,
        };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let is_granted = is_granted && (state.knows_forms || !is_form);
    let method = request.method().to_owned();
    state.asked.push(Asked { method, grant, scopes: scopes.clone(), is_granted });
    if is_form && !state.knows_forms {
        return refuse(405);
    }
    if !is_granted {
        return refuse(401);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    // The registry is lenient by a minute.
    let end = if state.worthless > 0 { now - 120 } else { now + state.lifetime };
    state.worthless = state.worthless.saturating_sub(1);
    let token = signer.token(now, end, &scopes);
    let mut document = json!({ "expires_in": state.lifetime });
    // Clients prefer the one, and old ones know the other.
    document[if is_form { "access_token" } else { "token" }] = token.into();
    let is_kept = field("access_type") == "offline" || field("offline_token") == "true";
    if is_kept || field("grant_type") == "refresh_token" {
        document["refresh_token"] = REFRESH_TOKEN.into();
    }
    let mut answer = Message::answer(200);
    answer.body = document.to_string().into_bytes();
    answer
}

fn refuse(status: u16) -> Message {
    let mut answer = Message::answer(status);
    answer.body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"not for you"}]}"#.to_vec();
    answer
}

impl Signer {
    /// A JSON web token of who may do all that is in the scopes.
    fn token(&self, now: u64, end: u64, scopes: &[String]) -> String {
        let access: Vec<Value> = scopes.iter().filter_map(|scope| access(scope)).collect();
        let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": USER, "jti": "1",
            "iat": now - 300, "nbf": now - 300, "exp": end, "access": access,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&head), encode(&claims));
        let signature = self.key.sign(text.as_bytes()).expect("sign a token");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(fixed(&signature)))
    }
}

/// `repository:NAME:ACTIONS`, where a name may have a colon.
fn access(scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// The two numbers of a signature of P-256, which are ASN.1 here and 32 bytes each in tokens.
fn fixed(signature: &[u8]) -> Vec<u8> {
    let mut rest = &signature[2..];
    let mut out = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        // A zero stands before one whose first bit is set, and short ones are short.
        let number = &number[number.len().saturating_sub(32)..];
        out.resize(out.len() + 32 - number.len(), 0);
        out.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    out
}
