//! What may not be in any text.

use super::{File, Violation};

/// What people read and write by hand.
const TEXTS: [&str; 6] = ["capnp", "md", "py", "rs", "sh", "toml"];

/// Where the machines that this is written on keep things: of no use to anybody else. In two parts
/// each, so that this file passes.
const MACHINE: [[&str; 2]; 7] = [
    ["/wo", "rk/main"],
    ["/wo", "rk/shared"],
    ["/wo", "rk/steering"],
    ["/wo", "rk/.library"],
    ["/far", "m/"],
    ["/root/", ".cargo"],
    ["/root/", ".rustup"],
];

/// Public registries: tests, docs and defaults reach the network nowhere. In two parts, likewise.
const REGISTRIES: [[&str; 2]; 7] = [
    ["docker", ".io"],
    ["ghcr", ".io"],
    ["gcr", ".io"],
    ["quay", ".io"],
    ["registry.k8s", ".io"],
    ["mcr.micro", "soft.com"],
    ["public.ecr", ".aws"],
];

/// The grammar of references: its default domain, and the cases that it shares with its peers.
const REFERENCES: &str = "schema/src/reference.rs";

pub(super) fn check(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    if !file.has_extension(&TEXTS) {
        return found;
    }
    for (number, line) in (1..).zip(file.text.lines()) {
        let mut say = |text| found.push(Violation::new(&file.path, number, text));
        if let Some(other) = line.chars().find(|c| !c.is_ascii()) {
            say(format!("{:?} is not ASCII: write it in ASCII or as an escape", other));
        }
        for path in MACHINE.map(|parts| parts.concat()) {
            if line.contains(&path) {
                say(format!("{path} is a path of one machine: make it relative or an argument"));
            }
        }
        for host in REGISTRIES.map(|parts| parts.concat()) {
            if line.contains(&host) && file.path != REFERENCES {
                say(format!("{host} is a public registry: name registry.example.com or loopback"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_letters_and_places_are_found() {
        let check = |path: &str, text: &str, expected: &[usize]| {
            let found = check(&File { path: path.into(), text: text.into() });
            let lines: Vec<usize> = found.iter().map(|violation| violation.line).collect();
            assert_eq!(lines, expected, "{text}");
        };
        let machine = MACHINE[0].concat();
        let registry = REGISTRIES[1].concat();
        check("a.rs", "fine\n\u{e9}\nfine\n", &[2]);
        check("a.rs", "'\\u{e9}'\n/work/dir\n", &[]);
        check("a.sh", &format!("cd {machine}/x\n"), &[1]);
        check("a.md", &format!("\n\npull {registry}/a\n"), &[3]);
        check(REFERENCES, &registry, &[]);
        check("a.png", "\u{e9}", &[]);
    }
}
