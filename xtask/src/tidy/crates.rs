//! Which crate may depend on which, and how it says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{File, Violation};
use crate::command::{cargo, output, root};

/// The direction of dependencies (DESIGN.md, section 2), for tests as well: a crate's directory and
/// those of our crates that it may see. `*` is one name. The first that fits counts.
const DIRECTION: [(&str, &[&str]); 11] = [
    // What both sides of every boundary agree on.
    ("schema", &[]),
    // The contracts.
    ("plugins/sdk", &["schema"]),
    // A plugin can be replaced because it knows contracts, never another plugin or the kernel.
    ("plugins/*", &["schema", "plugins/sdk"]),
    // It forks, and is started as a program: nothing of ours is in it.
    ("plugins/runtime-linux/helper", &[]),
    // The kernel sees contracts, never a plugin.
    ("kernel", &["schema", "plugins/sdk"]),
    // The only place where all meet.
    ("kernel/daemon", &["schema", "plugins/*", "kernel"]),
    // There is one per container: it stays tiny.
    ("shim", &["schema"]),
    // What a program of anybody's would depend on.
    ("cli/client", &["schema"]),
    // Clients, and nothing else.
    ("cli", &["cli/client"]),
    ("integration", &["cli/client"]),
    // A newcomer's machine compiles it first.
    ("xtask", &[]),
];

/// What a plugin's tests may start beside it: a store without its database would be a stand-in.
const DATABASE: &str = "plugins/metadata";

/// Crates that are nobody's part: each is a workspace of its own, with versions of its own.
const THIRD_PARTY: &str = "integration/third-party/";

/// A crate of ours.
pub(super) struct Member {
    name: String,
    /// From the root.
    dir: String,
    /// Directories of ours that it depends on.
    ours: BTreeSet<String>,
    /// Names of crates that it depends on, as they are called in the registry.
    pub(super) others: BTreeSet<String>,
}

/// All of them, as cargo sees them.
pub(super) fn members() -> Result<Vec<Member>> {
    let args = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let metadata: Value = serde_json::from_str(&output(cargo().args(args))?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata has packages")?;
    packages.iter().map(|package| member(package).context("cargo metadata")).collect()
}

fn member(package: &Value) -> Option<Member> {
    let from_root = |path: &Path| path.strip_prefix(root()).ok().map(|path| path.to_owned());
    let dir: PathBuf = from_root(Path::new(package["manifest_path"].as_str()?).parent()?)?;
    let mut member = Member {
        name: package["name"].as_str()?.into(),
        dir: dir.to_str()?.into(),
        ours: BTreeSet::new(),
        others: BTreeSet::new(),
    };
    for dependency in package["dependencies"].as_array()? {
        let Some(path) = dependency["path"].as_str() else {
            member.others.insert(dependency["name"].as_str()?.into());
            continue;
        };
        let other = from_root(Path::new(path))?;
        let is_for_tests = dependency["kind"] == "dev" && fits("plugins/*", &member.dir);
        if !(is_for_tests && other == Path::new(DATABASE)) {
            member.ours.insert(other.to_str()?.into());
        }
    }
    Some(member)
}

pub(super) fn check(members: &[Member], manifests: &[&File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for member in members {
        let path = format!("{}/Cargo.toml", member.dir);
        let Some((_, may)) = DIRECTION.iter().find(|(of, _)| fits(of, &member.dir)) else {
            let text = "no rule says what this crate may see: add one to DIRECTION in xtask";
            found.push(Violation::new(&path, 1, text));
            continue;
        };
        for dir in &member.ours {
            if may.iter().any(|pattern| fits(pattern, dir)) {
                continue;
            }
            let other = members.iter().find(|member| member.dir == *dir);
            let name = other.map_or(dir.as_str(), |other| &other.name);
            let manifest = manifests.iter().find(|manifest| manifest.path == path);
            let line = manifest.map_or(1, |manifest| line_of(&manifest.text, name));
            let text = format!(
                "{} sees {name}, and may see only [{}]: go through a contract",
                member.name,
                may.join(", ")
            );
            found.push(Violation::new(&path, line, text));
        }
    }
    let ours = manifests.iter().filter(|manifest| !manifest.path.starts_with(THIRD_PARTY));
    found.extend(ours.flat_map(|manifest| own_versions(manifest)));
    found
}

/// Whether a directory is what a pattern says.
fn fits(pattern: &str, dir: &str) -> bool {
    let (pattern, dir): (Vec<&str>, Vec<&str>) =
        (pattern.split('/').collect(), dir.split('/').collect());
    pattern.len() == dir.len() && pattern.iter().zip(&dir).all(|(p, d)| *p == "*" || p == d)
}

/// Dependencies that a member gives a version of its own: each version is said once, in the root.
fn own_versions(manifest: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut is_dependencies = false;
    let mut depth = 0;
    for (number, line) in (1..).zip(manifest.text.lines()) {
        let line = line.trim();
        if depth == 0 && line.starts_with('[') {
            let section = line.trim_matches(['[', ']']);
            is_dependencies = section.ends_with("dependencies");
            if section.contains("dependencies.") {
                let text = "a section for one dependency: write `NAME = { workspace = true, .. }`";
                found.push(Violation::new(&manifest.path, number, text));
            }
            continue;
        }
        let is_entry = depth == 0 && !line.is_empty() && !line.starts_with('#');
        if is_dependencies && is_entry && !line.replace(' ', "").contains("workspace=true") {
            let text = "a version of its own: say `workspace = true`, and the version in the root";
            found.push(Violation::new(&manifest.path, number, text));
        }
        depth += line.matches('[').count();
        depth -= line.matches(']').count().min(depth);
    }
    found
}

/// Where a manifest names a dependency.
fn line_of(manifest: &str, name: &str) -> usize {
    let names =
        |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ']));
    manifest.lines().position(names).map_or(1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, dir: &str, ours: &[&str]) -> Member {
        Member {
            name: name.into(),
            dir: dir.into(),
            ours: ours.iter().map(|dir| (*dir).into()).collect(),
            others: BTreeSet::new(),
        }
    }

    #[test]
    fn dependencies_go_one_way() {
        let check = |dir: &str, ours: &[&str], expected: usize| {
            let found = check(&[member("it", dir, ours)], &[]);
            assert_eq!(found.len(), expected, "{dir}: {found:?}");
        };
        check("schema", &[], 0);
        check("schema", &["plugins/sdk"], 1);
        check("plugins/sdk", &["schema"], 0);
        check("plugins/sdk", &["plugins/content"], 1);
        check("plugins/content", &["schema", "plugins/sdk"], 0);
        check("plugins/content", &["plugins/metadata", "kernel"], 2);
        check("plugins/runtime-linux/helper", &["schema"], 1);
        check("kernel", &["plugins/sdk"], 0);
        check("kernel", &["plugins/content"], 1);
        check("kernel/daemon", &["kernel", "plugins/content", "plugins/sdk", "schema"], 0);
        check("kernel/daemon", &["cli/client"], 1);
        check("shim", &["plugins/sdk"], 1);
        check("cli", &["cli/client"], 0);
        check("cli", &["schema"], 1);
        check("xtask", &["integration"], 1);
        check("elsewhere", &[], 1);
    }

    #[test]
    fn a_violation_names_the_line_of_the_manifest() {
        let manifest = File {
            path: "shim/Cargo.toml".into(),
            text: "[dependencies]\ncapstan-sdk-x.workspace = true\ncapstan-sdk.workspace = true\n"
                .into(),
        };
        let members =
            [member("shim", "shim", &["plugins/sdk"]), member("capstan-sdk", "plugins/sdk", &[])];
        let found = check(&members, &[&manifest]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].line), ("shim/Cargo.toml", 3));
    }

    #[test]
    fn a_third_party_has_versions_of_its_own() {
        let check = |path: &str, expected: usize| {
            let text = "[dependencies]\na = \"1\"\n".into();
            let found = check(&[], &[&File { path: path.into(), text }]);
            assert_eq!(found.len(), expected, "{found:?}");
        };
        check("integration/third-party/a/Cargo.toml", 0);
        check("integration/Cargo.toml", 1);
    }

    #[test]
    fn versions_are_in_the_root() {
        let check = |text: &str, expected: &[usize]| {
            let file = File { path: "a/Cargo.toml".into(), text: text.into() };
            let lines: Vec<usize> = own_versions(&file).iter().map(|it| it.line).collect();
            assert_eq!(lines, expected, "{text}");
        };
        check("[package]\nversion = \"1\"\n", &[]);
        check(
            "[dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\n",
            &[],
        );
        check("[dependencies]\na = \"1\"\n# b = \"1\"\n\n[lints]\nworkspace = true\n", &[2]);
        check("[dev-dependencies]\na = { version = \"1\" }\n", &[2]);
        check("[target.'cfg(unix)'.build-dependencies]\na = \"1\"\n", &[2]);
        check("[dependencies.a]\nversion = \"1\"\n", &[1]);
        check(
            "[dependencies]\na = { workspace = true, features = [\n  \"b\",\n] }\nc = \"1\"\n",
            &[5],
        );
        check("[features]\na = [\"dep:b\"]\n", &[]);
    }
}
