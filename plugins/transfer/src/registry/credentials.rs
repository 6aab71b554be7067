//! As whom a registry is spoken to: what the client says, else the daemon's own file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use capstan_sdk::contract::access::{Credentials, Login, Secret, WhoAmI};
use capstan_sdk::{Error, Result};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::hosts::familiar;

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The user for whom the password is an identity token.
const TOKEN_USER: &str = "<token>";

/// What `host` is to be told; `None`: nothing is known.
///
/// # Errors
/// `FailedPrecondition`: the file is not as it should be, or others may read it. And what the client has for errors.
pub(super) async fn login(
    client: Option<&Credentials>,
    file: &Path,
    host: &str,
) -> Result<Option<Login>> {
    if let Some(client) = client {
        let (answer, answered) = oneshot::channel();
        // A client that has gone says nothing.
        let _ = client.send(WhoAmI { host: host.to_owned(), answer });
        let answer = answered.await.unwrap_or(Ok(None))?;
        if let Some(login) = answer.filter(|login| !login.is_empty()) {
            return Ok(Some(normal(login)));
        }
    }
    let Some(text) = read(file)? else { return Ok(None) };
    find(file, &text, host)
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

fn find(path: &Path, text: &str, host: &str) -> Result<Option<Login>> {
    // What the parser says may repeat a secret; where it stands does not.
    let file: File = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad(path, format_args!("line {line}, column {column} is not as it should be; correct it"))
    })?;
    // The very name comes before those that mean the same.
    let found = file.auths.get(host).or_else(|| {
        let found = file.auths.iter().find(|(name, _)| is_of(name, host));
        found.map(|(_, entry)| entry)
    });
    let Some(entry) = found else { return Ok(None) };
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

/// Whether a name of the file is one of a host: `host`, `https://host`, `https://host/v1/`.
fn is_of(name: &str, host: &str) -> bool {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let name = name.split('/').next().unwrap_or_default();
    let name = match name {
        "index.docker.io" => "docker.io",
        name => familiar(name),
    };
    name.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use tokio::sync::mpsc;

    /// `user secret token`, or the class of the error.
    fn check(text: &str, host: &str, want: Result<Option<&str>, Class>) {
        let got = find(Path::new("/auth.json"), text, host);
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
            "{text} {host}"
        );
    }

    #[test]
    fn the_file_of_docker_is_read() {
        let auth = STANDARD.encode("me:SECRET:x");
        let file = format!(
            r#"{{"auths": {{
                "registry.example:5000": {{"auth": "{auth}"}},
                "https://other.example/v1/": {{"username": "you", "password": "SECRET"}},
                "token.example": {{"auth": "{}", "identitytoken": "SECRET2"}},
                "https://index.docker.io/v1/": {{"username": "hub", "password": "SECRET"}},
                "user.example": {{"username": "<token>", "password": "SECRET"}},
                "empty.example": {{}}
            }}, "credsStore": "some", "HttpHeaders": {{"a": "b"}}}}"#,
            STANDARD.encode("me:"),
        );
        check(&file, "registry.example:5000", Ok(Some("me SECRET:x ")));
        check(&file, "registry.example", Ok(None));
        check(&file, "other.example", Ok(Some("you SECRET ")));
        check(&file, "token.example", Ok(Some("me  SECRET2")));
        check(&file, "docker.io", Ok(Some("hub SECRET ")));
        check(&file, "user.example", Ok(Some("  SECRET")));
        check(&file, "empty.example", Ok(None));
        check("{}", "registry.example", Ok(None));
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

    #[tokio::test]
    async fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        assert_eq!(login(None, &path, "a.example").await.unwrap(), None);
        fs::write(&path, r#"{"auths": {"a.example": {"username": "me", "password": "x"}}}"#)
            .unwrap();
        for (mode, is_used) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let got = login(None, &path, "a.example").await;
            assert_eq!(got.is_ok(), is_used, "{mode:o} {got:?}");
            let Err(error) = got else { continue };
            assert_eq!(error.class(), Class::FailedPrecondition);
            assert!(error.message().contains("chmod it to 600"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_client_is_asked_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, r#"{"auths": {"a.example": {"username": "file", "password": "x"}}}"#)
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let ask = async |answer: Result<Option<Login>>| {
            let (client, mut questions) = mpsc::unbounded_channel::<WhoAmI>();
            let answering = async {
                let question = questions.recv().await.unwrap();
                assert_eq!(question.host, "a.example");
                question.answer.send(answer).unwrap();
            };
            let (login, ()) = tokio::join!(login(Some(&client), &path, "a.example"), answering);
            login.map(|login| login.unwrap().user)
        };
        let me = Login { user: "me".into(), ..Login::default() };
        assert_eq!(ask(Ok(Some(me))).await.unwrap(), "me");
        assert_eq!(ask(Ok(None)).await.unwrap(), "file");
        assert_eq!(ask(Ok(Some(Login::default()))).await.unwrap(), "file");
        // One that cannot say what it knows is not taken for one that knows nothing.
        let error = ask(Err(Error::precondition("a helper fails"))).await.unwrap_err();
        assert_eq!((error.class(), error.message()), (Class::FailedPrecondition, "a helper fails"));

        let (gone, questions) = mpsc::unbounded_channel();
        drop(questions);
        assert_eq!(login(Some(&gone), &path, "a.example").await.unwrap().unwrap().user, "file");
    }
}
