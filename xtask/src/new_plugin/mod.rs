//! `cargo xtask new-plugin KIND NAME DIR`: a crate with a plugin that works, outside of this workspace.
//!
//! The files are in template/, with words in them that stand for what differs from one plugin to the next.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::command::root;

/// A file of a crate: where it goes, and its text.
type Template = (&'static str, &'static str);

/// A text of the template.
macro_rules! template {
    ($to:literal, $from:literal) => {
        ($to, include_str!(concat!("template/", $from)))
    };
}

/// What every plugin has.
const COMMON: &[Template] = &[
    template!("Cargo.toml", "manifest.toml"),
    template!("README.md", "README.md"),
    template!(".gitignore", "gitignore"),
    template!("src/main.rs", "main.rs"),
];

/// A kind of plugins that there is a template for.
struct Kind {
    name: &'static str,
    /// Dependencies that others do not have, as lines of the manifest.
    dependencies: &'static str,
    files: &'static [Template],
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "gc-policy",
        dependencies: "",
        files: &[
            template!("src/lib.rs", "gc-policy/lib.rs"),
            template!("tests/conformance.rs", "gc-policy/conformance.rs"),
        ],
    },
    Kind {
        name: "metrics",
        dependencies: "",
        files: &[
            template!("src/lib.rs", "metrics/lib.rs"),
            template!("tests/conformance.rs", "metrics/conformance.rs"),
        ],
    },
    Kind {
        name: "sink",
        dependencies: "",
        files: &[
            template!("src/lib.rs", "sink/lib.rs"),
            template!("tests/conformance.rs", "sink/conformance.rs"),
        ],
    },
    Kind {
        name: "snapshotter",
        dependencies: "rustix = { version = \"1\", features = [\"fs\"] }\n",
        files: &[
            template!("src/lib.rs", "snapshotter/lib.rs"),
            template!("src/copy.rs", "snapshotter/copy.rs"),
            template!("src/trees.rs", "snapshotter/trees.rs"),
            template!("tests/conformance.rs", "snapshotter/conformance.rs"),
        ],
    },
    Kind {
        name: "verifier",
        dependencies: "",
        files: &[
            template!("src/lib.rs", "verifier/lib.rs"),
            template!("tests/conformance.rs", "verifier/conformance.rs"),
        ],
    },
];

/// A name is part of the name of a file.
const LONGEST: usize = 40;

/// Makes the crate, and says what to do with it.
pub(crate) fn new_plugin(kind: &str, name: &str, dir: &Path) -> Result<()> {
    let kind = find(kind)?;
    check_name(name)?;
    check_dir(dir)?;
    let words = words(kind, name)?;
    for (path, text) in COMMON.iter().chain(kind.files) {
        write(&dir.join(path), &filled(text, &words))?;
    }
    // With the versions that the SDK was tested with; cargo leaves out what is not needed.
    let lock = root().join("Cargo.lock");
    fs::copy(&lock, dir.join("Cargo.lock")).with_context(|| format!("copy {}", lock.display()))?;
    let library = format!("lib{}.so", format!("{}-{name}", kind.name).replace('-', "_"));
    let next = format!(
        "{}.{name} is in {}. Next, there:\n\n\
         \x20 cargo build --release\n\
         \x20 cargo test\n\
         \x20 capstan plugins load target/release/{library}\n\n\
         README.md says more.\n",
        kind.name,
        dir.display()
    );
    std::io::stdout().write_all(next.as_bytes()).context("say what is next")
}

fn find(name: &str) -> Result<&'static Kind> {
    match KINDS.iter().find(|kind| kind.name == name) {
        Some(kind) => Ok(kind),
        None => {
            let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            bail!("{name:?}: there is no template of this kind; there are {}", known.join(", "))
        }
    }
}

/// It becomes part of a plugin's id and of the names of a crate and a type.
fn check_name(name: &str) -> Result<()> {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !begins_well || !name.split('-').all(is_word) || name.len() > LONGEST {
        bail!(
            "{name:?} is no name for a plugin: take up to {LONGEST} lower-case letters, digits, and single dashes \
             between them, the first a letter"
        );
    }
    Ok(())
}

fn check_dir(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("look into {}", dir.display())),
        Ok(entries) => match entries.count() {
            0 => Ok(()),
            _ => bail!("{}: it is not empty; take another directory", dir.display()),
        },
    }
}

/// The words of the templates, and what they stand for.
fn words(kind: &Kind, name: &str) -> Result<[(&'static str, String); 7]> {
    let sdk = root().join("plugins/sdk").canonicalize().context("find the SDK")?;
    let crate_name = format!("{}-{name}", kind.name);
    Ok([
        ("__DEPENDENCIES__\n", kind.dependencies.into()),
        ("__KIND__", kind.name.into()),
        ("__NAME__", name.into()),
        ("__PACKAGE__", crate_name.clone()),
        ("__CRATE__", crate_name.replace('-', "_")),
        ("__TYPE__", name.split('-').map(capitalized).collect()),
        ("__SDK__", sdk.display().to_string()),
    ])
}

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

fn filled(text: &str, words: &[(&str, String)]) -> String {
    words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().expect("it is in the crate's directory");
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_left() {
        for kind in &KINDS {
            let words = words(kind, "my-own2").unwrap();
            for (path, text) in COMMON.iter().chain(kind.files) {
                let text = filled(text, &words);
                assert!(!text.contains("__"), "{}: {path}", kind.name);
            }
        }
        let words = words(find("gc-policy").unwrap(), "my-own2").unwrap();
        assert_eq!(filled("__TYPE__ __CRATE__ __KIND__.__NAME__", &words), {
            "MyOwn2 gc_policy_my_own2 gc-policy.my-own2"
        });
    }

    #[test]
    fn only_names_that_fit_everywhere_are_taken() {
        for good in ["mine", "a", "a1-b", "x-2-y"] {
            check_name(good).unwrap();
        }
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", "A", "1a", "-a", "a-", "a--b", "a.b", "a_b", "a/b", "..", "a b", &long] {
            let error = check_name(bad).unwrap_err().to_string();
            assert!(error.contains("is no name"), "{error}");
        }
    }

    #[test]
    fn an_unknown_kind_names_those_that_are_known() {
        let error = find("mine").err().unwrap().to_string();
        assert!(error.contains("gc-policy, metrics, sink, snapshotter, verifier"), "{error}");
    }
}
