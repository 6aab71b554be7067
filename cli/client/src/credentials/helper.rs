//! Programs that keep logins: docker's credential helpers.

use std::process::Stdio;
use std::time::Duration;

use capstan_schema::{Error, Result};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Login, name_of};

/// How long a helper may take. Some ask a person, some another machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most bytes of an answer, or of a complaint, that are read.
const MAX_BYTES: u64 = 1 << 20;

/// The most characters of what a helper says that an error repeats.
const MAX_SAID_CHARS: usize = 200;

/// By which helpers say that they know nothing.
const UNKNOWN: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What `docker-credential-NAME` knows of a host.
///
/// # Errors
/// `FailedPrecondition`: it is not there, fails, or takes too long.
///
/// Cancel safety: it is ended.
pub(super) async fn ask(name: &str, host: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{name}");
    if name.contains('/') {
        return Err(Error::precondition(format!(
            "login to {host}: {program} is no name of a helper; correct the file that names it"
        )));
    }
    ask_within(PATIENCE, &program, host).await
}

async fn ask_within(patience: Duration, program: &str, host: &str) -> Result<Option<Login>> {
    let bad = |why: String| Error::precondition(format!("login to {host}: {program} {why}"));
    // The host goes to stdin, and nothing secret to the arguments, which everybody may see.
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            bad(format!("cannot be started ({error}); install it, or do not name it any more"))
        })?;
    let mut stdin = child.stdin.take().expect("a pipe");
    let stdout = child.stdout.take().expect("a pipe");
    let stderr = child.stderr.take().expect("a pipe");
    let talk = async {
        let tell = async {
            // One that does not want to know says so by how it ends.
            let _ = stdin.write_all(format!("{}\n", name_of(host)).as_bytes()).await;
            drop(stdin);
        };
        let ((), out, err) = tokio::join!(tell, read(stdout), read(stderr));
        (child.wait().await, out, err)
    };
    let (status, out, err) = timeout(patience, talk)
        .await
        .map_err(|_| bad(format!("gives no answer within {patience:?}; try it by hand")))?;
    let status = status.map_err(|error| bad(format!("is lost ({error})")))?;
    if !status.success() {
        if out.contains(UNKNOWN) || err.contains(UNKNOWN) {
            return Ok(None);
        }
        // What it says goes to stdout by the protocol. What looks like an answer has a secret in it.
        let said = [&err, &out].into_iter().map(|text| text.trim());
        let said = said.into_iter().find(|text| !text.is_empty() && !text.contains('{'));
        let said: String = said.unwrap_or_default().chars().take(MAX_SAID_CHARS).collect();
        let said = if said.is_empty() { said } else { format!(", {said:?}") };
        return Err(bad(format!("fails ({status}{said}); try it by hand")));
    }
    // What the parser says may repeat a secret.
    let answer: Answer = serde_json::from_str(&out)
        .map_err(|_| bad("does not answer as helpers do; try it by hand".into()))?;
    Ok(Some(Login::new(answer.username, answer.secret)).filter(|login| !login.is_empty()))
}

async fn read(pipe: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // What came before a failure is all there is.
    let _ = pipe.take(MAX_BYTES).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// What a helper with this body makes known: `user secret token`, nothing, or an error.
    async fn answer(body: &str) -> Result<Option<String>> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("docker-credential-test");
        fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let patience = Duration::from_secs(20);
        let login = ask_within(patience, program.to_str().unwrap(), "a.example").await?;
        Ok(login.map(|Login { user, secret, identity_token }| {
            format!("{user} {secret} {identity_token}")
        }))
    }

    #[tokio::test]
    async fn a_helper_is_asked_as_docker_asks() {
        let check = async |body: &str, want: Option<&str>| {
            let got = answer(body).await.unwrap();
            assert_eq!(got.as_deref(), want, "{body}");
        };
        check(
            r#"read host; test "$host $*" = "a.example get" || exit 1
            echo '{"ServerURL":"a.example","Username":"me","Secret":"s"}'"#,
            Some("me s "),
        )
        .await;
        // One that does not read what it is told.
        check(r#"exec <&-; echo '{"Username":"<token>","Secret":"t"}'"#, Some("  t")).await;
        check(r#"echo '{"Username":"","Secret":""}'"#, None).await;
        check("echo 'credentials not found in native keychain'; exit 1", None).await;
        check("echo 'credentials not found in native keychain' >&2; exit 1", None).await;
    }

    #[tokio::test]
    async fn what_goes_wrong_is_said_and_no_secret() {
        let check = async |body: &str, want: &str| {
            let error = answer(body).await.unwrap_err();
            assert_eq!(error.class(), capstan_schema::Class::FailedPrecondition);
            let text = error.message();
            assert!(text.contains(want) && text.contains("a.example"), "{body}: {text}");
            assert!(!text.contains("SECRET"), "{body}: {text}");
        };
        check("echo 'the safe is locked' >&2; exit 3", "exit status: 3, \"the safe is locked\"")
            .await;
        check("echo 'no such key'; exit 1", "\"no such key\"").await;
        check(r#"echo '{"Username":"me","Secret":"SECRET"}'; exit 1"#, "exit status: 1").await;
        check("echo SECRET", "does not answer as helpers do").await;
        check(r#"echo '{"Username":["SECRET"]}'"#, "does not answer as helpers do").await;
        check("", "does not answer as helpers do").await;
        check("kill -9 $$", "signal: 9").await;
        check("exec head -c 3000000 /dev/zero", "signal: 13").await;
        let gone = ask("that-is-not-there", "a.example").await.unwrap_err();
        assert!(gone.message().contains("docker-credential-that-is-not-there cannot be started"));
        assert!(ask("../x", "a.example").await.unwrap_err().message().contains("no name"));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (program, pid) = (dir.path().join("helper"), dir.path().join("pid"));
        fs::write(&program, format!("#!/bin/sh\necho $$ > {}\nexec sleep 100\n", pid.display()))
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let patience = Duration::from_secs(2);
        let error = ask_within(patience, program.to_str().unwrap(), "a.example").await.unwrap_err();
        assert!(error.message().contains("no answer within 2s"), "{error}");
        let pid: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let is_asleep =
            || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        for _ in 0..200 {
            if !is_asleep() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the helper goes on as {pid}");
    }
}
