//! `cargo xtask schema`: generated Rust is checked in, so that building needs no capnp compiler.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::command::root;

/// The head of `mod.rs`, as rustfmt would have it.
const HEAD: &str = "\
//! Made by `cargo xtask schema` from schema/capnp. Do not edit.

#![allow(
    missing_docs,
    unreachable_pub,
    elided_lifetimes_in_paths,
    unsafe_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unimplemented,
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::wildcard_imports,
    reason = \"generated\"
)]

";

fn generated() -> PathBuf {
    root().join("schema/src/generated")
}

/// Makes `schema/src/generated` anew.
pub(crate) fn generate() -> Result<()> {
    let out = generated();
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    generate_into(&out)
}

/// Fails if what is checked in is not what the schemas give.
pub(crate) fn check() -> Result<()> {
    let fresh = root().join("target/schema-check");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    generate_into(&fresh)?;
    if read_all(&fresh)? != read_all(&generated())? {
        bail!("schema/src/generated is stale: run `cargo xtask schema` and commit what it writes");
    }
    Ok(())
}

fn generate_into(out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let schemas = root().join("schema/capnp");
    let mut command = capnpc::CompilerCommand::new();
    command
        .src_prefix(&schemas)
        .import_path(&schemas)
        .output_path(out)
        .default_parent_module(vec!["generated".into()]);
    let mut names = Vec::new();
    for entry in fs::read_dir(&schemas)? {
        let path = entry?.path();
        let name = path.file_stem().context("a schema has a name")?.to_string_lossy().into_owned();
        names.push(format!("{name}_capnp"));
        command.file(path);
    }
    command.run().context("the capnp compiler (Debian package capnproto)")?;
    names.sort();
    let mut module = String::from(HEAD);
    for name in names {
        module.push_str(&format!("#[rustfmt::skip]\npub mod {name};\n"));
    }
    fs::write(out.join("mod.rs"), module)?;
    Ok(())
}

fn read_all(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        files.insert(
            entry.file_name().to_string_lossy().into_owned(),
            fs::read_to_string(entry.path())?,
        );
    }
    Ok(files)
}
