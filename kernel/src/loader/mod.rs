//! The loader: plugins from outside of this program, as candidates like any other.
//!
//! A library is copied into memory once it is known that only root could have written it, and the copy is what
//! runs: what happens to the file later does not matter. It is looked at in a process of its own first, so one that
//! crashes while it is loaded takes that process and not the daemon. A library is never unloaded (each load and
//! close would leak 24 kB, one that stays costs nothing): a new version is loaded beside the old one.

mod library;
mod outside;
mod process;
mod verify;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use capstan_schema::{Class, Error, Result};
use capstan_sdk::{Context, Factory, LocalFuture, Manifest, Running};
use serde::{Deserialize, Serialize};

use self::outside::{Origin, Outside};
pub(crate) use self::verify::Image;
use crate::source::{Candidate, Source};

pub use library::host;
pub(crate) use process::resident;

/// `[load."kind.name"]`: a plugin from outside. Just one of `library`, `command` and `socket` is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// A shared library.
    pub library: PathBuf,
    /// Its sha256, in hex. Default: empty, which means any.
    pub sha256: String,
    /// The library in a process of its own. Default: false.
    pub isolated: bool,
    /// A program, and its arguments, that is the plugin.
    pub command: Vec<String>,
    /// `unix:///PATH`, where a plugin listens that somebody else has started.
    pub socket: String,
    /// The plugin's process is ended when it takes more memory than that. Default: 0, which means any.
    pub memory_limit_bytes: u64,
}

/// A plugin that was loaded by hand and cannot be loaded any more: it is shown, with the reason.
struct Broken(Error);

impl Factory for Broken {
    fn describe(&self) -> LocalFuture<'static, Result<Option<Manifest>>> {
        let error = self.0.clone();
        Box::pin(async { Err(error) })
    }

    fn complete(&self, section: toml::Table) -> LocalFuture<'static, Result<toml::Table>> {
        Box::pin(async { Ok(section) })
    }

    fn start(&self, _: toml::Table, _: Context) -> LocalFuture<'static, Result<Running>> {
        let error = self.0.clone();
        Box::pin(async { Err(error) })
    }
}

/// A manifest for what did not say yet what it is.
fn unknown(id: &str) -> Manifest {
    Manifest {
        id: id.into(),
        version: String::new(),
        about: String::new(),
        requires: [].into(),
        rank: 0,
        built_with: String::new(),
    }
}

/// The candidate for a library that cannot be loaded, which is no reason to have none of its id.
pub(crate) fn broken(id: &str, path: &Path, error: Error) -> Candidate {
    Candidate {
        manifest: unknown(id),
        source: Source::Cdylib(path.display().to_string()),
        factory: Rc::new(Broken(error)),
        image: None,
    }
}

/// Makes candidates.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The program that runs a library in a process of its own: this one.
    program: PathBuf,
}

impl Loader {
    /// `program` runs libraries, as `PROGRAM plugin-host`.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// The plugins in directories of libraries, by file name. A directory that is missing is fine.
    ///
    /// # Errors
    /// Those of [`Loader::library`].
    pub async fn directories(&self, directories: &[PathBuf]) -> Result<Vec<Candidate>> {
        let mut found = Vec::new();
        for directory in directories {
            let fail = |error| Error::io(format!("list {}", directory.display()), error);
            let entries = match std::fs::read_dir(directory) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.map_err(fail)?,
            };
            let mut paths = Vec::new();
            for entry in entries {
                let path = entry.map_err(fail)?.path();
                if path.extension().is_some_and(|extension| extension == "so") {
                    paths.push(path);
                }
            }
            paths.sort();
            for path in paths {
                found.push(self.library(&path, &Load::default()).await?);
            }
        }
        Ok(found)
    }

    /// A plugin from a section of the configuration. One that cannot be reached yet is no error: it is
    /// tried again.
    ///
    /// # Errors
    /// `InvalidArgument`: the section. Those of [`Loader::library`].
    pub async fn section(&self, id: &str, load: &Load) -> Result<Candidate> {
        let at = |error: Error| error.at(format!("[load.{id:?}]"));
        let said = [
            !load.library.as_os_str().is_empty(),
            !load.command.is_empty(),
            !load.socket.is_empty(),
        ];
        if said.iter().filter(|said| **said).count() != 1 {
            return Err(at(Error::invalid("say just one of library, command and socket")));
        }
        if said[0] {
            let candidate = self.library(&load.library, load).await.map_err(at)?;
            if &*candidate.manifest.id != id {
                return Err(at(Error::invalid(format!(
                    "{} is the plugin {}",
                    load.library.display(),
                    candidate.manifest.id
                ))));
            }
            return Ok(candidate);
        }
        let (origin, name) = if said[1] {
            let argv = load.command.clone();
            if !Path::new(&argv[0]).is_absolute() {
                return Err(at(Error::invalid("command: the program has to be an absolute path")));
            }
            (Origin::Command { argv: argv.clone(), limit: load.memory_limit_bytes }, argv.join(" "))
        } else {
            let path = crate::SocketPath::parse(&load.socket).map_err(at)?;
            (Origin::Socket(path.as_path().to_owned()), load.socket.clone())
        };
        let outside = Outside::new(origin, id);
        // It says itself what it is, as soon as it is there.
        let manifest = match outside.describe().await {
            Ok(manifest) if &*manifest.id == id => manifest,
            Ok(manifest) => {
                return Err(at(Error::invalid(format!("{name} is the plugin {}", manifest.id))));
            }
            Err(error) if error.class() == Class::Unavailable => {
                tracing::warn!(plugin = id, %error, "it is not there yet");
                unknown(id)
            }
            Err(error) => return Err(at(error)),
        };
        let source = Source::Remote(name);
        Ok(Candidate { manifest, source, factory: Rc::new(outside), image: None })
    }

    /// A plugin from a shared library.
    ///
    /// # Errors
    /// `PermissionDenied`: others than root could have written it. `NotFound`. `Corrupt`: it is no shared library,
    /// or not the one that was pinned, or crashes. `InvalidArgument`: it is no plugin, or of another ABI.
    pub async fn library(&self, path: &Path, load: &Load) -> Result<Candidate> {
        let image = Rc::new(Image::read(path, &load.sha256)?);
        let place = path.display().to_string();
        let probe = Outside::new(
            Origin::Isolated {
                program: self.program.clone(),
                image: Rc::clone(&image),
                limit: load.memory_limit_bytes,
            },
            &place,
        );
        // In a process of its own, whatever it does.
        let manifest = probe.describe().await.map_err(|error| match error.class() {
            // A process that ends while it says what it is will not do better another time.
            Class::Unavailable => error.as_class(Class::Corrupt).at(&place),
            _ => error.at(&place),
        })?;
        if load.isolated {
            let source = Source::Remote(place);
            return Ok(Candidate { manifest, source, factory: Rc::new(probe), image: Some(image) });
        }
        if !probe.unwinds() {
            return Err(Error::invalid(format!(
                "{place}: a panic in it would end the daemon (it is built with panic=abort): build it with \
                 panic=unwind, or load it isolated"
            )));
        }
        drop(probe);
        let outside = Outside::new(Origin::Library { image: Rc::clone(&image) }, &manifest.id);
        let (source, factory) = (Source::Cdylib(place), Rc::new(outside));
        Ok(Candidate { manifest, source, factory, image: Some(image) })
    }
}
