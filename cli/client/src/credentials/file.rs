//! A file with logins, in the format of docker's `config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use capstan_schema::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Login, helper, host_of, name_of};

/// The largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Where one is.
pub(super) struct File<'a> {
    path: &'a Path,
    is_own: bool,
}

/// What one has; the rest of it is of no interest here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    /// The helper for a host.
    cred_helpers: BTreeMap<String, String>,
    /// The helper for all hosts.
    creds_store: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What was read.
pub(super) struct Known<'a> {
    path: &'a Path,
    document: Document,
}

impl<'a> File<'a> {
    /// capstan's own: others may not read it.
    pub(super) fn own(path: &'a Path) -> Self {
        Self { path, is_own: true }
    }

    /// Somebody else's, whose rights are for others to look after.
    pub(super) fn other(path: &'a Path) -> Self {
        Self { path, is_own: false }
    }

    /// # Errors
    /// As `Keyring::find`.
    pub(super) fn read(&self) -> Result<Option<Known<'a>>> {
        let Some(text) = self.text()? else { return Ok(None) };
        let document = self.parsed(&text)?;
        Ok(Some(Known { path: self.path, document }))
    }

    /// Keeps a login.
    pub(super) fn store(&self, host: &str, login: &Login) -> Result<()> {
        let dir = self.dir();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| self.io(e))?;
        let told = |user, secret| STANDARD.encode(format!("{user}:{secret}"));
        let entry = match login.identity_token.is_empty() {
            true => json!({ "auth": told(&login.user, &login.secret) }),
            false => json!({ "identitytoken": login.identity_token }),
        };
        self.change(|auths| {
            auths.retain(|name, _| !is_of(name, host));
            auths.insert(name_of(host), entry);
            Ok(())
        })
    }

    /// Removes it.
    pub(super) fn remove(&self, host: &str) -> Result<()> {
        let unknown = || {
            Error::not_found(format!(
                "login to {host}: there is none in {}, so nothing is removed",
                self.path.display()
            ))
        };
        if self.text()?.is_none() {
            return Err(unknown());
        }
        self.change(|auths| {
            let before = auths.len();
            auths.retain(|name, _| !is_of(name, host));
            if auths.len() == before { Err(unknown()) } else { Ok(()) }
        })
    }

    /// Changes the logins, while nobody else does, and leaves the old file or the new one, whatever happens.
    fn change(&self, change: impl FnOnce(&mut Map<String, Value>) -> Result<()>) -> Result<()> {
        // Where it is a link, the file behind it is meant.
        let path = fs::canonicalize(self.path).unwrap_or_else(|_| self.path.to_owned());
        let dir = path.parent().unwrap_or(Path::new("/"));
        let locked = fs::File::open(dir).map_err(|error| self.io(error))?;
        locked.lock().map_err(|error| self.io(error))?;

        let text = self.text()?.unwrap_or_default();
        // What is not understood is not written anew.
        self.parsed::<Document>(&text)?;
        let mut document: Map<String, Value> = self.parsed(&text)?;
        let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        change(auths.as_object_mut().expect("it was parsed as a table"))?;
        let text = format!("{:#}\n", Value::Object(document));

        let mut new = tempfile::Builder::new()
            .prefix(".auth-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(dir)
            .map_err(|error| self.io(error))?;
        new.write_all(text.as_bytes()).map_err(|error| self.io(error))?;
        if let Ok(old) = fs::metadata(&path) {
            let ours = new.as_file().metadata().map_err(|error| self.io(error))?;
            if (old.uid(), old.gid()) != (ours.uid(), ours.gid()) {
                fchown(new.as_file(), Some(old.uid()), Some(old.gid())).map_err(|e| self.io(e))?;
            }
        }
        new.as_file().sync_all().map_err(|error| self.io(error))?;
        new.persist(&path).map_err(|error| self.io(error.error))?;
        locked.sync_all().map_err(|error| self.io(error))
    }

    /// Its text; `None`: there is no such file.
    fn text(&self) -> Result<Option<Vec<u8>>> {
        let found = match fs::metadata(self.path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            found => found.map_err(|error| self.io(error))?,
        };
        if !found.is_file() {
            return Err(self.bad("it is no file; say where the logins are"));
        }
        let file = fs::File::open(self.path).map_err(|error| self.io(error))?;
        let mode = file.metadata().map_err(|error| self.io(error))?.mode() & 0o777;
        if self.is_own && mode & 0o077 != 0 {
            return Err(self.bad(format_args!(
                "others may read or write it (mode {mode:o}), so it is not used; chmod it to 600"
            )));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|error| self.io(error))?;
        match text.len() as u64 > MAX_BYTES {
            true => Err(self.bad("it is too large; correct it")),
            false => Ok(Some(text)),
        }
    }

    /// docker and podman take an empty file for none.
    ///
    /// What the parser says may repeat a secret; where it stands does not.
    fn parsed<T: DeserializeOwned + Default>(&self, text: &[u8]) -> Result<T> {
        if text.trim_ascii().is_empty() {
            return Ok(T::default());
        }
        serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            self.bad(format_args!(
                "line {line}, column {column} is not as it should be; correct it"
            ))
        })
    }

    fn dir(&self) -> &'a Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn bad(&self, why: impl std::fmt::Display) -> Error {
        bad(self.path, why)
    }

    fn io(&self, error: std::io::Error) -> Error {
        Error::io(format_args!("logins in {}", self.path.display()), error)
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::precondition(format!("logins in {}: {why}", path.display()))
}

fn is_of(name: &str, host: &str) -> bool {
    host_of(name).is_some_and(|name| name.eq_ignore_ascii_case(host))
}

/// What is for a host. The very name comes before those that mean the same.
fn of<'a, T>(map: &'a BTreeMap<String, T>, host: &str) -> Option<&'a T> {
    let exact = map.get(&name_of(host)).or_else(|| map.get(host));
    exact.or_else(|| map.iter().find(|(name, _)| is_of(name, host)).map(|(_, value)| value))
}

impl Known<'_> {
    /// Whether the file itself has a login.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.entry(host).is_ok_and(|login| login.is_some())
    }

    /// # Errors
    /// As `Keyring::find`.
    pub(super) async fn find(&self, host: &str) -> Result<Option<Login>> {
        if let Some(name) = of(&self.document.cred_helpers, host)
            && let Some(login) = helper::ask(name, host).await?
        {
            return Ok(Some(login));
        }
        if let Some(login) = self.entry(host)? {
            return Ok(Some(login));
        }
        match self.document.creds_store.as_str() {
            "" => Ok(None),
            name => helper::ask(name, host).await,
        }
    }

    /// What stands in the file itself.
    fn entry(&self, host: &str) -> Result<Option<Login>> {
        let Some(entry) = of(&self.document.auths, host).cloned() else { return Ok(None) };
        let mut login = Login::new(entry.username, entry.password);
        if !entry.auth.is_empty() {
            let decoded = STANDARD.decode(&entry.auth);
            let decoded = decoded.or_else(|_| STANDARD_NO_PAD.decode(&entry.auth)).ok();
            let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let told = decoded.as_deref().and_then(|told| told.split_once(':'));
            let (user, secret) = told.ok_or_else(|| {
                let why = format!("`auth` of {host} is no base64 of USER:PASSWORD; correct it");
                bad(self.path, why)
            })?;
            login = Login::new(user.to_owned(), secret.trim_end_matches('\0').to_owned());
        }
        if !entry.identitytoken.is_empty() {
            login.identity_token = entry.identitytoken;
        }
        Ok(Some(login).filter(|login| !login.is_empty()))
    }
}
