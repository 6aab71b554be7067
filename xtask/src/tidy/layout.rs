//! The root of the checkout: a newcomer sees the parts of the system there, and nothing else.

use std::collections::BTreeSet;

use super::{File, Violation};

/// What is there, no more and no less (DESIGN.md, section 2).
const ROOT: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cli",
    "integration",
    "kernel",
    "plugins",
    "schema",
    "shim",
    "xtask",
];

/// What tools want there may be there, hidden.
const HIDDEN: [&str; 6] =
    [".cargo", ".ci", ".clippy.toml", ".config", ".gitignore", ".rustfmt.toml"];

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let entries: BTreeSet<&str> =
        files.iter().map(|file| file.path.split('/').next().unwrap_or_default()).collect();
    let mut found = Vec::new();
    for entry in &entries {
        if !ROOT.contains(entry) && !HIDDEN.contains(entry) {
            found.push(Violation::new(
                entry,
                1,
                "does not belong in the root: move it into a part",
            ));
        }
    }
    for name in ROOT {
        if !entries.contains(name) {
            found.push(Violation::new(name, 1, "is missing in the root: write it"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_exactly_what_is_listed() {
        let check = |more: &[&str], less: &str, expected: &[&str]| {
            let paths = ROOT.iter().filter(|name| **name != less).chain(more);
            let files: Vec<File> =
                paths.map(|path| File { path: (*path).into(), text: String::new() }).collect();
            let found: Vec<String> = check(&files).into_iter().map(|it| it.path).collect();
            assert_eq!(found, expected);
        };
        check(&[".ci/run", "kernel/src/lib.rs"], "", &[]);
        check(&["docs/design.md", "notes"], "", &["docs", "notes"]);
        check(&[".github/x.yml"], "README.md", &[".github", "README.md"]);
    }
}
