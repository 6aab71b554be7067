//! As whom registries are spoken to: a user's logins, as capstan, docker and podman keep them.
//!
//! A [`Keyring`] looks them up and keeps them; given to the daemon with a request, it answers when a registry
//! wants to know. Secrets go nowhere else: not into errors, nor into what is printed for debugging.

mod file;
mod helper;
#[cfg(test)]
mod tests;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use capstan_schema::transfer_capnp::{credentials, login};
use capstan_schema::{Error, FAMILIAR_HOST, FAMILIAR_INDEX, Reference, Result, reference_host};

use file::File;

/// The user for whom the password is an identity token, as docker has it.
const TOKEN_USER: &str = "<token>";

/// What a registry is told.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The name of an account.
    pub user: String,
    /// A password, or a token that stands for one.
    pub secret: String,
    /// An OAuth 2 refresh token, given in place of user and secret.
    pub identity_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// Of a user, or, should the user be `<token>`, with an identity token.
    pub fn new(user: String, secret: String) -> Self {
        match user == TOKEN_USER {
            true => Self { identity_token: secret, ..Self::default() },
            false => Self { user, secret, ..Self::default() },
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.user.is_empty() && self.secret.is_empty() && self.identity_token.is_empty()
    }

    /// Writes it for the daemon.
    pub fn write(&self, mut out: login::Builder<'_>) {
        out.set_user(&*self.user);
        out.set_secret(&*self.secret);
        out.set_identity_token(&*self.identity_token);
    }

    /// Whether it can be one.
    ///
    /// # Errors
    /// `InvalidArgument`: it cannot be told to a registry, nor be kept.
    pub fn check(&self) -> Result<()> {
        if self.user.contains(':') {
            return Err(Error::invalid("a user of a registry has no colon in the name"));
        }
        let texts = [&self.user, &self.secret, &self.identity_token];
        if texts.iter().any(|text| text.contains(['\0', '\r', '\n'])) {
            return Err(Error::invalid("users and passwords of registries are one line each"));
        }
        if self.identity_token.is_empty() && (self.user.is_empty() || self.secret.is_empty()) {
            return Err(Error::invalid("a login to a registry takes a user and a password"));
        }
        Ok(())
    }
}

/// The name under which a registry's logins are known, `host[:port]`, from what people write for it: with or without
/// a scheme, and in docker's ways to name its own.
///
/// # Errors
/// `InvalidArgument`: it is no such name.
pub fn registry_host(text: &str) -> Result<String> {
    let host = host_of(text).map(str::to_ascii_lowercase);
    let is_host = |host: &String| {
        let reference = Reference::parse(&format!("{host}/any"));
        reference.is_ok_and(|reference| reference.host() == host)
    };
    host.filter(is_host).ok_or_else(|| {
        // It may have a password in it.
        let shown = if text.contains('@') { "***" } else { text };
        let shown: String = shown.chars().take(80).collect();
        Error::invalid(format!("registry {shown:?}: write HOST[:PORT]"))
    })
}

/// The host that a name in a file is of: `host`, `https://host`, `https://host/v1/`. What is of one repository only is
/// of no host.
fn host_of(name: &str) -> Option<&str> {
    let bare = ["https://", "http://"].iter().find_map(|scheme| name.strip_prefix(scheme));
    let name = bare.unwrap_or(name);
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    if !matches!(path.trim_end_matches('/'), "" | "v1" | "v2") {
        return None;
    }
    Some(reference_host(host))
}

/// The name of a host in files, and for helpers.
fn name_of(host: &str) -> String {
    match host {
        FAMILIAR_HOST => format!("https://{FAMILIAR_INDEX}/v1/"),
        host => host.to_owned(),
    }
}

/// The logins of a user. They are read whenever one is wanted.
///
/// Looked up in this order: capstan's own file, docker's, podman's. In each, a helper that is named for the host comes
/// first, then what the file itself has, then the helper for all hosts.
#[derive(Clone, Debug)]
pub struct Keyring {
    own: Option<PathBuf>,
    others: Vec<PathBuf>,
}

impl Keyring {
    /// That of the user for whom this process runs, by its environment.
    ///
    /// capstan's own file is `$CAPSTAN_AUTH_FILE`, or else `capstan/auth.json` in `$XDG_CONFIG_HOME` or in
    /// `~/.config`; docker's is `config.json` in `$DOCKER_CONFIG` or in `~/.docker`; podman's is
    /// `$XDG_RUNTIME_DIR/containers/auth.json`.
    pub fn of_user() -> Self {
        Self::of(|name| env::var_os(name).map(PathBuf::from))
    }

    fn of(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let set = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
        // By the rules for these directories a relative one is as good as none.
        let dir = |name| set(name).filter(|path| path.is_absolute());
        let home = dir("HOME");
        let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let config = dir("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let own = config.map(|config| config.join("capstan/auth.json"));
        let docker = set("DOCKER_CONFIG").or_else(|| in_home(".docker"));
        let docker = docker.map(|docker| docker.join("config.json"));
        let podman = dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
        let own = set("CAPSTAN_AUTH_FILE").or(own);
        Self { own, others: docker.into_iter().chain(podman).collect() }
    }

    /// With one file, which is capstan's own.
    pub fn with(file: impl Into<PathBuf>) -> Self {
        Self { own: Some(file.into()), others: Vec::new() }
    }

    /// capstan's own file.
    ///
    /// # Errors
    /// `FailedPrecondition`: the environment does not say where it is.
    pub fn file(&self) -> Result<&Path> {
        self.own.as_deref().ok_or_else(|| {
            Error::precondition("there is no place for logins: set HOME or CAPSTAN_AUTH_FILE")
        })
    }

    /// What is known for `host[:port]`.
    ///
    /// # Errors
    /// `FailedPrecondition`: a file is not as it should be, or others may read capstan's own; a helper is not there, or
    /// fails. `PermissionDenied`: a file is not for us to read.
    ///
    /// Cancel safety: a helper that runs is ended.
    pub async fn find(&self, host: &str) -> Result<Option<Login>> {
        let own = self.own.iter().map(|path| File::own(path));
        for file in own.chain(self.others.iter().map(|path| File::other(path))) {
            let Some(known) = file.read()? else { continue };
            if let Some(login) = known.find(host).await? {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Which other files have a login for `host[:port]`. Helpers are not asked.
    ///
    /// # Errors
    /// As [`Keyring::find`].
    pub fn known_elsewhere(&self, host: &str) -> Result<Vec<&Path>> {
        let mut known = Vec::new();
        for path in &self.others {
            let file = File::other(path).read()?;
            if file.is_some_and(|file| file.knows(host)) {
                known.push(path.as_path());
            }
        }
        Ok(known)
    }

    /// Whether [`Keyring::store`] can be expected to work.
    ///
    /// # Errors
    /// `FailedPrecondition`: there is no own file to be, or it is not as it should be.
    pub fn check(&self) -> Result<()> {
        File::own(self.file()?).read().map(drop)
    }

    /// Keeps a login for `host[:port]` in capstan's own file, which is for nobody else to read. What else is in it
    /// stays.
    ///
    /// # Errors
    /// `InvalidArgument`: it is no login. And as [`Keyring::find`] for that file, or it cannot be written.
    pub fn store(&self, host: &str, login: &Login) -> Result<()> {
        login.check()?;
        File::own(self.file()?).store(host, login)
    }

    /// Removes the login for `host[:port]` from capstan's own file.
    ///
    /// # Errors
    /// `NotFound`: it has none. And as [`Keyring::store`].
    pub fn remove(&self, host: &str) -> Result<()> {
        File::own(self.file()?).remove(host)
    }
}

/// Answers one question of the daemon: a login, that none is known, or why that cannot be said.
pub fn answer(found: Result<Option<Login>>, mut results: credentials::get_results::Builder<'_>) {
    match found {
        Ok(login) => login.unwrap_or_default().write(results.init_login()),
        Err(error) => error.write(results.reborrow().init_error()),
    }
}

/// Answers the daemon's questions.
impl credentials::Server for Keyring {
    async fn get(
        self: Rc<Self>,
        params: credentials::GetParams,
        mut results: credentials::GetResults,
    ) -> capnp::Result<()> {
        let host = params.get()?.get_host()?.to_str()?;
        answer(self.find(host).await, results.get());
        Ok(())
    }
}
