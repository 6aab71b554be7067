//! As whom a registry is spoken to: what the client says, else the daemon's own file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use capstan_schema::reference_host;
use capstan_sdk::contract::access::{Credentials, Login, Secret, WhoAmI};
use capstan_sdk::{Error, Result};
use serde::Deserialize;
use tokio::sync::oneshot;

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The user for whom the password is an identity token.
const TOKEN_USER: &str = "<token>";

/// What `host` is to be told by the client's word; `None`: it knows nothing.
///
/// # Errors
/// What the client has for errors.
pub(super) async fn ask_client(client: Option<&Credentials>, host: &str) -> Result<Option<Login>> {
    let Some(client) = client else { return Ok(None) };
    let (answer, answered) = oneshot::channel();
    // A client that has gone says nothing.
    let _ = client.send(WhoAmI { host: host.to_owned(), answer });
    let answer = answered.await.unwrap_or(Ok(None))?;
    Ok(answer.filter(|login| !login.is_empty()).map(normal))
}

/// What `host` is to be told for a repository of it by the daemon's file; `None`: nothing is known.
///
/// # Errors
/// `FailedPrecondition`: the file is not as it should be, or others may read it.
pub(super) fn of_file(file: &Path, host: &str, repository: &str) -> Result<Option<Login>> {
    let Some(text) = read(file)? else { return Ok(None) };
    find(file, &text, host, repository)
}

fn normal(login: Login) -> Login {
    match login.user == TOKEN_USER && login.identity_token.is_empty() {
        true => Login { identity_token: login.secret, ..Login::default() },
        false => login,
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::precondition(format!("credentials of the daemon, {}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Option<String>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| bad(path, error))?,
    };
    if found.permissions().mode() & 0o077 != 0 {
        return Err(bad(path, "others may read or write it, so it is not used; chmod it to 600"));
    }
    if found.len() > MAX_FILE_BYTES {
        return Err(bad(path, "it is too large; correct it"));
    }
    fs::read_to_string(path).map(Some).map_err(|error| bad(path, error))
}

/// docker's `config.json`, of which the rest is of no interest here.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

fn find(path: &Path, text: &str, host: &str, repository: &str) -> Result<Option<Login>> {
    // What the parser says may repeat a secret; where it stands does not.
    let file: File = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad(path, format_args!("line {line}, column {column} is not as it should be; correct it"))
    })?;
    // Of those that mean the same the very name of the host comes first.
    let fits = file.auths.iter().filter_map(|(name, entry)| {
        let fit = fit(name, host, repository)?;
        Some(((fit, name == host), entry))
    });
    let Some((_, entry)) = fits.max_by_key(|(fit, _)| *fit) else { return Ok(None) };
    let mut login = Login {
        user: entry.username.clone(),
        secret: Secret::new(&*entry.password),
        identity_token: Secret::new(&*entry.identitytoken),
    };
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(&entry.auth).or_else(|_| STANDARD_NO_PAD.decode(&entry.auth));
        let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let told = decoded.as_deref().and_then(|told| told.split_once(':'));
        let (user, secret) = told.ok_or_else(|| {
            bad(path, format_args!("`auth` of {host} is no base64 of USER:PASSWORD; correct it"))
        })?;
        login.user = user.to_owned();
        login.secret = Secret::new(secret.trim_end_matches('\0'));
    }
    Ok(Some(normal(login)).filter(|login| !login.is_empty()))
}

/// How many bytes of a repository's path a name of the file tells; `None`: it is of another host, or repository.
///
/// `host`, `https://host` and `https://host/v1/` are of all repositories; `host/path` is of the one with this path and of
/// those below it, and comes before what tells less (containers-auth.json(5)).
fn fit(name: &str, host: &str, repository: &str) -> Option<usize> {
    let (bare, is_url) = match name.split_once("://") {
        Some((_, bare)) => (bare, true),
        None => (name, false),
    };
    let (name, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    if !reference_host(name).eq_ignore_ascii_case(host) {
        return None;
    }
    if is_url || matches!(path, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::{Class, Reference};
    use tokio::sync::mpsc;

    /// `user secret token`, or the class of the error.
    fn check(text: &str, host: &str, want: Result<Option<&str>, Class>) {
        check_for(text, host, "app", want);
    }

    fn check_for(text: &str, host: &str, repository: &str, want: Result<Option<&str>, Class>) {
        let got = find(Path::new("/auth.json"), text, host, repository);
        let got = got.map_err(|error| {
            assert!(!error.message().contains("SECRET"), "{error}");
            error.class()
        });
        let got = got.map(|login| {
            login.map(|login| {
                let Login { user, secret, identity_token } = &login;
                assert!(!format!("{login:?}").contains("SECRET"));
                format!("{user} {} {}", secret.reveal(), identity_token.reveal())
            })
        });
        assert_eq!(
            got.as_ref().map(Option::as_deref).map_err(|class| *class),
            want,
            "{text} {host} {repository}"
        );
    }

    #[test]
    fn the_file_of_docker_is_read() {
        let auth = STANDARD.encode("me:SECRET:x");
        let familiar = Reference::parse_familiar("busybox").unwrap().host().to_owned();
        let file = format!(
            r#"{{"auths": {{
                "registry.example:5000": {{"auth": "{auth}"}},
                "https://other.example/v1/": {{"username": "you", "password": "SECRET"}},
                "token.example": {{"auth": "{}", "identitytoken": "SECRET2"}},
                "https://index.{familiar}/v1/": {{"username": "hub", "password": "SECRET"}},
                "user.example": {{"username": "<token>", "password": "SECRET"}},
                "empty.example": {{}}
            }}, "credsStore": "some", "HttpHeaders": {{"a": "b"}}}}"#,
            STANDARD.encode("me:"),
        );
        check(&file, "registry.example:5000", Ok(Some("me SECRET:x ")));
        check(&file, "registry.example", Ok(None));
        check(&file, "other.example", Ok(Some("you SECRET ")));
        check(&file, "token.example", Ok(Some("me  SECRET2")));
        check(&file, &familiar, Ok(Some("hub SECRET ")));
        check(&file, "user.example", Ok(Some("  SECRET")));
        check(&file, "empty.example", Ok(None));
        check("{}", "registry.example", Ok(None));
    }

    #[test]
    fn the_name_that_tells_most_of_a_repository_counts() {
        let entry = |name: &str, user: &str| {
            format!(r#""{name}": {{"username": "{user}", "password": "SECRET"}}"#)
        };
        let names = [
            ("a.example", "host"),
            ("a.example/team", "team"),
            ("a.example/team/app", "app"),
            ("https://b.example/v2/", "url"),
            ("b.example/team/", "slash"),
            ("c.example/only", "only"),
        ];
        let entries = names.map(|(name, user)| entry(name, user)).join(",");
        let file = format!(r#"{{"auths": {{{entries}}}}}"#);
        let check = |host: &str, repository: &str, want: Option<&str>| {
            let want = want.map(|user| format!("{user} SECRET "));
            check_for(&file, host, repository, Ok(want.as_deref()));
        };
        check("a.example", "", Some("host"));
        check("a.example", "x", Some("host"));
        check("a.example", "teams/app", Some("host"));
        check("a.example", "team", Some("team"));
        check("a.example", "team/other", Some("team"));
        check("a.example", "team/app", Some("app"));
        check("a.example", "team/app/part", Some("app"));
        check("a.example", "team/apple", Some("team"));
        check("b.example", "x", Some("url"));
        check("b.example", "team/x", Some("slash"));
        check("c.example", "only/x", Some("only"));
        check("c.example", "other", None);
        check("c.example", "", None);
    }

    #[test]
    fn a_bad_file_is_an_error_without_its_secrets() {
        let bad = Err(Class::FailedPrecondition);
        check("", "a.example", bad);
        check(r#"{"auths": {"a.example": "SECRET"}}"#, "a.example", bad);
        check(r#"{"auths": {"a.example": {"auth": "SECRET"}}}"#, "a.example", bad);
        check(r#"{"auths": {"a.example": {"auth": "U0VDUkVU"}}}"#, "a.example", bad);
        check(r#"{"auths": {"a.example": {"password": ["SECRET"]}}}"#, "a.example", bad);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        assert_eq!(of_file(&path, "a.example", "app").unwrap(), None);
        fs::write(&path, r#"{"auths": {"a.example": {"username": "me", "password": "x"}}}"#)
            .unwrap();
        for (mode, is_used) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let got = of_file(&path, "a.example", "app");
            assert_eq!(got.is_ok(), is_used, "{mode:o} {got:?}");
            let Err(error) = got else { continue };
            assert_eq!(error.class(), Class::FailedPrecondition);
            assert!(error.message().contains("chmod it to 600"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_client_is_asked() {
        assert_eq!(ask_client(None, "a.example").await.unwrap(), None);
        let ask = async |answer: Result<Option<Login>>| {
            let (client, mut questions) = mpsc::unbounded_channel::<WhoAmI>();
            let answering = async {
                let question = questions.recv().await.unwrap();
                assert_eq!(question.host, "a.example");
                question.answer.send(answer).unwrap();
            };
            let (login, ()) = tokio::join!(ask_client(Some(&client), "a.example"), answering);
            login.map(|login| login.map(|login| login.user))
        };
        let me = Login { user: "me".into(), ..Login::default() };
        assert_eq!(ask(Ok(Some(me))).await.unwrap().as_deref(), Some("me"));
        assert_eq!(ask(Ok(None)).await.unwrap(), None);
        assert_eq!(ask(Ok(Some(Login::default()))).await.unwrap(), None);
        // One that cannot say what it knows is not taken for one that knows nothing.
        let error = ask(Err(Error::precondition("a helper fails"))).await.unwrap_err();
        assert_eq!((error.class(), error.message()), (Class::FailedPrecondition, "a helper fails"));

        let (gone, questions) = mpsc::unbounded_channel();
        drop(questions);
        assert_eq!(ask_client(Some(&gone), "a.example").await.unwrap(), None);
    }
}
