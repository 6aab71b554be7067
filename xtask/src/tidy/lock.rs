//! One version of each crate that we chose.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::crates::Member;

/// The container library, in two crates. What it brings along is not ours to choose: it is the newest
/// there is, and it is in a small program of its own.
const FOREIGN: [&str; 2] = ["libcgroups", "libcontainer"];

/// A crate in Cargo.lock.
#[derive(Debug, PartialEq, Eq)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    /// `name`, or `name version` where there are several.
    dependencies: Vec<&'a str>,
    /// Where it is in the file.
    line: usize,
    is_ours: bool,
}

pub(super) fn check(lock: &str, members: &[Member]) -> Vec<Violation> {
    let chosen: BTreeSet<&str> =
        members.iter().flat_map(|member| &member.others).map(String::as_str).collect();
    check_chosen(lock, &chosen)
}

fn check_chosen(lock: &str, chosen: &BTreeSet<&str>) -> Vec<Violation> {
    let packages = parse(lock);
    let mut versions: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for index in reachable(&packages) {
        versions.entry(packages[index].name).or_default().push(index);
    }
    let mut found = Vec::new();
    for (name, indices) in versions {
        if indices.len() > 1 && chosen.contains(name) {
            let list: Vec<&str> = indices.iter().map(|index| packages[*index].version).collect();
            let text = format!("{name} is here as {}: agree on one version", list.join(" and "));
            found.push(Violation::new("Cargo.lock", packages[indices[1]].line, text));
        }
    }
    found
}

/// All that our crates need, in the file's order, without what only [`FOREIGN`] needs.
fn reachable(packages: &[Package<'_>]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<usize> =
        (0..packages.len()).filter(|index| packages[*index].is_ours).collect();
    while let Some(index) = next.pop() {
        if !seen.insert(index) || FOREIGN.contains(&packages[index].name) {
            continue;
        }
        for dependency in &packages[index].dependencies {
            let mut words = dependency.split(' ');
            let (name, version) = (words.next(), words.next());
            next.extend((0..packages.len()).filter(|other| {
                let other = &packages[*other];
                Some(other.name) == name && version.is_none_or(|version| version == other.version)
            }));
        }
    }
    seen
}

fn parse(lock: &str) -> Vec<Package<'_>> {
    let mut packages: Vec<Package<'_>> = Vec::new();
    for (number, line) in (1..).zip(lock.lines()) {
        if line == "[[package]]" {
            packages.push(Package {
                name: "",
                version: "",
                dependencies: Vec::new(),
                line: number,
                // What has a source is not.
                is_ours: true,
            });
        }
        let Some(package) = packages.last_mut() else { continue };
        match line.split_once(" = ") {
            Some(("name", name)) => package.name = name.trim_matches('"'),
            Some(("version", version)) => package.version = version.trim_matches('"'),
            Some(("source", _)) => package.is_ours = false,
            _ => {}
        }
        if let Some(dependency) = line.strip_prefix(" \"") {
            package.dependencies.push(dependency.trim_end_matches(['"', ',']));
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, dependencies: &[&str]) -> String {
        let list: String = dependencies.iter().map(|name| format!(" \"{name}\",\n")).collect();
        let source = if name.starts_with("our") { "" } else { "source = \"registry\"\n" };
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{source}\
             dependencies = [\n{list}]\n\n"
        )
    }

    #[test]
    fn a_lock_is_read() {
        let lock = format!("version = 4\n\n{}", package("our", "0.1.0", &["nix 0.31.3", "tar"]));
        let expected = Package {
            name: "our",
            version: "0.1.0",
            dependencies: vec!["nix 0.31.3", "tar"],
            line: 3,
            is_ours: true,
        };
        assert_eq!(parse(&lock), [expected]);
    }

    #[test]
    fn what_is_chosen_is_there_once() {
        let check = |between: &str, chosen: &str, expected: usize| {
            let lock = [
                package("our", "1", &["nix 2", between]),
                package(between, "1", &["nix 1"]),
                package("nix", "1", &[]),
                package("nix", "2", &[]),
            ];
            let found = check_chosen(&lock.concat(), &BTreeSet::from([chosen, between]));
            assert_eq!(found.len(), expected, "{between} {chosen}: {found:?}");
        };
        check("tar", "nix", 1);
        check("tar", "other", 0);
        check(FOREIGN[1], "nix", 0);
    }
}
