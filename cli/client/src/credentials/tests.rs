//! Logins in files: found, kept, removed, and not given to anybody.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capstan_schema::Class;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

fn login(user: &str, secret: &str) -> Login {
    Login::new(user.into(), secret.into())
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A keyring with its own file, and the directory that this is in.
fn keyring() -> (Keyring, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("capstan/auth.json");
    (Keyring::with(&path), path, dir)
}

#[test]
fn people_write_hosts_in_many_ways() {
    let check = |text: &str, want: Option<&str>| {
        let got = registry_host(text);
        assert_eq!(got.as_deref().ok(), want, "{text}");
        let Err(error) = got else { return };
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(!error.message().contains("SECRET"), "{error}");
    };
    check("registry.example", Some("registry.example"));
    check("Registry.Example:5000", Some("registry.example:5000"));
    check("localhost", Some("localhost"));
    check("127.0.0.1:5000", Some("127.0.0.1:5000"));
    check("[::1]:5000", Some("[::1]:5000"));
    check("https://registry.example/", Some("registry.example"));
    check("http://registry.example/v2/", Some("registry.example"));
    for docker in [FAMILIAR_HOST, FAMILIAR_INDEX, &name_of(FAMILIAR_HOST)] {
        check(docker, Some(FAMILIAR_HOST));
    }
    check("", None);
    check("https://", None);
    check("registry.example/app", None);
    check("registry.example:port", None);
    check("https://me:SECRET@registry.example", None);
    check("-registry", None);
    check("a b", None);
    check("ftp://registry.example", None);
    check("registry.example\n", None);
}

#[tokio::test]
async fn a_login_is_kept_for_nobody_else() {
    let (keyring, path, _dir) = keyring();
    keyring.check().unwrap();
    assert_eq!(keyring.find("a.example").await.unwrap(), None);
    let me = login("me", "S:ECRET");
    keyring.store("a.example", &me).unwrap();
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(keyring.find("a.example").await.unwrap(), Some(me.clone()));
    assert_eq!(keyring.find("b.example").await.unwrap(), None);
    assert!(!format!("{me:?} {keyring:?}").contains("ECRET"));

    keyring.store(FAMILIAR_HOST, &login("hub", "h")).unwrap();
    keyring.store("a.example:5000", &login("<token>", "t")).unwrap();
    assert_eq!(
        json_of(&path),
        json!({"auths": {
            "a.example": {"auth": STANDARD.encode("me:S:ECRET")},
            "a.example:5000": {"identitytoken": "t"},
            (format!("https://{FAMILIAR_INDEX}/v1/")): {"auth": STANDARD.encode("hub:h")},
        }})
    );
    assert_eq!(keyring.find(FAMILIAR_HOST).await.unwrap(), Some(login("hub", "h")));
    let token = Login { identity_token: "t".into(), ..Login::default() };
    assert_eq!(keyring.find("a.example:5000").await.unwrap(), Some(token));

    keyring.remove(FAMILIAR_HOST).unwrap();
    assert_eq!(keyring.find(FAMILIAR_HOST).await.unwrap(), None);
    assert_eq!(keyring.remove(FAMILIAR_HOST).unwrap_err().class(), Class::NotFound);
    assert_eq!(keyring.find("a.example").await.unwrap(), Some(me));
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn removing_makes_no_file() {
    let (keyring, path, _dir) = keyring();
    assert_eq!(keyring.remove("a.example").unwrap_err().class(), Class::NotFound);
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn what_is_no_login_is_not_kept() {
    let (keyring, path, _dir) = keyring();
    for (user, secret) in [
        ("", "SECRET"),
        ("me", ""),
        ("m:e", "SECRET"),
        ("me", "SEC\nRET"),
        ("me", "SEC\0RET"),
        ("<token>", ""),
    ] {
        let error = keyring.store("a.example", &login(user, secret)).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{user}");
        assert!(!error.message().contains("SEC"), "{error}");
    }
    assert!(!path.exists());
}

/// What is not of logins stays, also the file behind a link, and the host has one entry afterwards.
#[test]
fn the_rest_of_a_file_stays() {
    let (keyring, path, dir) = keyring();
    let behind = dir.path().join("elsewhere/config.json");
    write(
        &behind,
        r#"{"auths": {"https://a.example/v1/": {"auth": "eDp5"}, "b.example": {"auth": "eDp5", "email": "x"}},
            "credHelpers": {"c.example": "x"}, "HttpHeaders": {"a": "b"}, "psFormat": "x"}"#,
    );
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(&behind, &path).unwrap();
    keyring.store("a.example", &login("me", "s")).unwrap();
    assert!(path.is_symlink());
    assert_eq!(
        json_of(&behind),
        json!({"auths": {"a.example": {"auth": STANDARD.encode("me:s")},
                         "b.example": {"auth": "eDp5", "email": "x"}},
               "credHelpers": {"c.example": "x"}, "HttpHeaders": {"a": "b"}, "psFormat": "x"})
    );
    assert_eq!(mode(&behind), 0o600);
}

#[tokio::test]
async fn an_empty_file_is_none() {
    let (keyring, path, _dir) = keyring();
    write(&path, "\n");
    assert_eq!(keyring.find("a.example").await.unwrap(), None);
    keyring.store("a.example", &login("me", "s")).unwrap();
    assert_eq!(keyring.find("a.example").await.unwrap(), Some(login("me", "s")));
}

#[tokio::test]
async fn a_file_that_others_may_read_is_refused_and_not_changed() {
    let (keyring, path, _dir) = keyring();
    write(&path, r#"{"auths": {"a.example": {"auth": "bWU6cw=="}}}"#);
    for (mode, is_used) in
        [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let found = keyring.find("a.example").await;
        assert_eq!(found.is_ok(), is_used, "{mode:o} {found:?}");
        if is_used {
            continue;
        }
        let before = fs::read(&path).unwrap();
        for error in [
            found.unwrap_err(),
            keyring.check().unwrap_err(),
            keyring.store("b.example", &login("me", "s")).unwrap_err(),
            keyring.remove("a.example").unwrap_err(),
        ] {
            assert_eq!(error.class(), Class::FailedPrecondition);
            assert!(error.message().contains("chmod it to 600"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[tokio::test]
async fn a_bad_file_is_an_error_without_its_secrets_and_is_not_changed() {
    let (keyring, path, _dir) = keyring();
    for text in [
        "SECRET",
        r#"{"auths": []}"#,
        r#"{"auths": null}"#,
        r#"{"auths": {"a.example": "SECRET"}}"#,
        r#"{"auths": {"a.example": {"auth": ["SECRET"]}}}"#,
        r#"{"auths": {}, "credHelpers": {"a.example": 1}}"#,
        "{\"auths\": {\"a.example\": {\"auth\": \"\u{0}\"}}}",
    ] {
        write(&path, text);
        let errors = [
            keyring.find("a.example").await.unwrap_err(),
            keyring.store("a.example", &login("me", "s")).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.class(), Class::FailedPrecondition, "{text}");
            assert!(error.message().contains("auth.json: line 1, column"), "{error}");
            assert!(!error.message().contains("SECRET"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
    }
    for text in [
        r#"{"auths": {"a.example": {"auth": "SECRET"}}}"#,
        r#"{"auths": {"a.example": {"auth": "U0VD"}}}"#,
    ] {
        write(&path, text);
        let error = keyring.find("a.example").await.unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(error.message().contains("base64 of USER:PASSWORD"), "{error}");
        assert!(!error.message().contains("SECRET"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(keyring.find("a.example").await.unwrap_err().message().contains("it is no file"));
    fs::remove_dir(&path).unwrap();
    write(&path, &" ".repeat(2 << 20));
    assert!(keyring.find("a.example").await.unwrap_err().message().contains("too large"));
}

#[tokio::test]
async fn dockers_and_podmans_entries_are_understood() {
    let (keyring, path, _dir) = keyring();
    let file = json!({"auths": {
        "https://a.example/v1/": {"auth": STANDARD.encode("me:s\0\0")},
        "b.example": {"username": "you", "password": "p"},
        "c.example": {"auth": STANDARD.encode("me:"), "identitytoken": "t"},
        "d.example": {"auth": STANDARD.encode("<token>:t")},
        "e.example": {},
        "f.example/team": {"auth": STANDARD.encode("team:s")},
        "g.example": {"auth": STANDARD.encode("me:s").trim_end_matches('=')},
        "https://h.example": {"auth": STANDARD.encode("other:s")},
        "h.example": {"auth": STANDARD.encode("very:s")},
    }});
    write(&path, &file.to_string());
    let check = async |host: &str, want: Option<Login>| {
        assert_eq!(keyring.find(host).await.unwrap(), want, "{host}");
    };
    check("a.example", Some(login("me", "s"))).await;
    check("b.example", Some(login("you", "p"))).await;
    let token = Login { user: "me".into(), identity_token: "t".into(), ..Login::default() };
    check("c.example", Some(token)).await;
    check("d.example", Some(login("<token>", "t"))).await;
    check("e.example", None).await;
    // That is for one part of the registry, and nobody says for which one it is asked.
    check("f.example", None).await;
    check("g.example", Some(login("me", "s"))).await;
    check("h.example", Some(login("very", "s"))).await;
}

#[tokio::test]
async fn our_own_file_comes_before_dockers_and_podmans() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let mut environment =
        BTreeMap::from([("HOME", home.to_owned()), ("XDG_RUNTIME_DIR", home.join("run"))]);
    let keyring =
        |environment: &BTreeMap<&str, PathBuf>| Keyring::of(|name| environment.get(name).cloned());
    let auths = |user: &str| {
        json!({"auths": {"a.example": {"auth": STANDARD.encode(format!("{user}:s"))}}}).to_string()
    };
    let user = async |environment: &BTreeMap<&str, PathBuf>| {
        let login = keyring(environment).find("a.example").await.unwrap();
        login.map(|login| login.user).unwrap_or_default()
    };
    assert_eq!(user(&environment).await, "");
    write(&home.join("run/containers/auth.json"), &auths("podman"));
    assert_eq!(user(&environment).await, "podman");
    write(&home.join(".docker/config.json"), &auths("docker"));
    assert_eq!(user(&environment).await, "docker");
    // It is not ours to say who may read it.
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(home.join(".docker/config.json"), mode).unwrap();
    assert_eq!(user(&environment).await, "docker");
    let own = home.join(".config/capstan/auth.json");
    assert_eq!(keyring(&environment).file().unwrap(), own);
    write(&own, &auths("own"));
    assert_eq!(user(&environment).await, "own");
    let known = keyring(&environment);
    let known = known.known_elsewhere("a.example").unwrap();
    let others = [home.join(".docker/config.json"), home.join("run/containers/auth.json")];
    assert_eq!(known, others.iter().map(PathBuf::as_path).collect::<Vec<_>>());

    let check = async |name, value: PathBuf, want: &str| {
        let mut environment = environment.clone();
        environment.insert(name, value);
        assert_eq!(user(&environment).await, want, "{name}");
    };
    write(&home.join("xdg/capstan/auth.json"), &auths("xdg"));
    write(&home.join("named.json"), &auths("named"));
    check("XDG_CONFIG_HOME", home.join("xdg"), "xdg").await;
    check("XDG_CONFIG_HOME", "relative".into(), "own").await;
    check("CAPSTAN_AUTH_FILE", home.join("named.json"), "named").await;
    check("CAPSTAN_AUTH_FILE", home.join("missing.json"), "docker").await;
    check("CAPSTAN_AUTH_FILE", "".into(), "own").await;
    environment.insert("CAPSTAN_AUTH_FILE", home.join("missing.json"));
    write(&home.join("docker/config.json"), &auths("other docker"));
    environment.insert("DOCKER_CONFIG", home.join("docker"));
    assert_eq!(user(&environment).await, "other docker");

    let nowhere = keyring(&BTreeMap::new());
    assert_eq!(nowhere.find("a.example").await.unwrap(), None);
    assert_eq!(nowhere.check().unwrap_err().class(), Class::FailedPrecondition);
    assert!(nowhere.file().unwrap_err().message().contains("set HOME or CAPSTAN_AUTH_FILE"));
}

/// Each of many who store at once finds what the others have stored.
#[test]
fn logins_at_the_same_time_are_all_kept() {
    let (keyring, path, _dir) = keyring();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let keyring = keyring.clone();
            scope.spawn(move || {
                keyring.store(&format!("r{number}.example"), &login("me", "s")).unwrap();
            });
        }
    });
    assert_eq!(json_of(&path)["auths"].as_object().unwrap().len(), 16);
}
