//! `cargo xtask tidy`: what no compiler checks. It lists all that it finds, each with what to do.
//!
//! Invariant: a rule has no list of files that may break it, other than those its constant names.

mod crates;
mod layout;
mod lock;
mod rust;
mod source;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{output, root};

/// Made by `cargo xtask schema`: other rules, or none.
const GENERATED: &str = "schema/src/generated/";

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    /// What it is and what to do.
    text: String,
}

impl Violation {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.into(), line, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// A file of the checkout.
struct File {
    /// From the root.
    path: String,
    text: String,
}

impl File {
    fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
    }
}

/// Checks everything.
pub(crate) fn tidy() -> Result<()> {
    let files = files()?;
    let manifests: Vec<&File> =
        files.iter().filter(|file| file.path.ends_with("/Cargo.toml")).collect();
    let members = crates::members()?;
    let mut found = layout::check(&files);
    found.extend(crates::check(&members, &manifests));
    found.extend(lock::check(&fs::read_to_string(root().join("Cargo.lock"))?, &members));
    found.extend(files.iter().flat_map(text::check));
    found.extend(rust::check(&files));
    found.sort();
    for violation in &found {
        eprintln!("{violation}");
    }
    if !found.is_empty() {
        bail!("tidy: {} to mend", found.len());
    }
    Ok(())
}

/// All files that git knows, or would know after an `add`; what is text has its text.
fn files() -> Result<Vec<File>> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let list = output(Command::new("git").current_dir(root()).args(args))?;
    let mut files = Vec::new();
    for path in list.split_terminator('\0').filter(|path| !path.starts_with(GENERATED)) {
        let file = root().join(path);
        // Removed and not committed yet.
        if file.is_file() {
            let bytes = fs::read(&file).with_context(|| format!("read {path}"))?;
            files.push(File {
                path: path.into(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            });
        }
    }
    Ok(files)
}
