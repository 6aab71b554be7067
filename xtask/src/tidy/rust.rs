//! Rust files: sizes, words, and where `unsafe` may be.

use super::source::{code_of, lines_without_tests};
use super::{File, Violation};

/// A file that is longer has two subjects.
const FILE_LINES: usize = 800;

/// `lib.rs` is a table of contents.
const LIB_LINES: usize = 160;

/// `main.rs` is a sentence.
const MAIN_LINES: usize = 80;

/// The kernel stays small, or it is none.
const KERNEL_LINES: usize = 4000;

/// Its files, without the daemon's, which is where all meet.
const KERNEL: &str = "kernel/src/";

/// Where `unsafe` may be: few places, so that each can be read again and again.
const UNSAFE: [&str; 3] = ["shim/src/sys/", "plugins/sdk/src/abi/", "kernel/src/loader/"];

/// What is not finished, or left from the search for a bug.
const WORDS: [(&str, &str); 4] = [
    ("todo!", "finish it, or answer Unimplemented"),
    ("unimplemented!", "finish it, or answer Unimplemented"),
    ("dbg!", "remove it"),
    ("#[ignore", "a test runs or is not there: mend it or remove it"),
];

/// Attributes that silence the compiler.
const SILENCERS: [&str; 4] = ["#[allow(", "#![allow(", "#[expect(", "#![expect("];

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut kernel = 0;
    for file in files.iter().filter(|file| file.has_extension(&["rs"])) {
        found.extend(check_file(file));
        if file.path.starts_with(KERNEL) {
            kernel += lines_without_tests(&file.text);
        }
    }
    if kernel > KERNEL_LINES {
        let text = format!(
            "the kernel has {kernel} lines without tests, {KERNEL_LINES} is its budget: move \
             something into a plugin"
        );
        found.push(Violation::new(&format!("{KERNEL}lib.rs"), 1, text));
    }
    found
}

fn check_file(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |line, text: String| found.push(Violation::new(&file.path, line, text));
    if !file.text.starts_with("//!") {
        say(1, "does not begin with `//!`: say what the file is for".into());
    }
    let (lines, limit) = (lines_without_tests(&file.text), limit(&file.path));
    if lines > limit {
        say(
            limit + 1,
            format!("{lines} lines without tests, {limit} is the limit: split the file"),
        );
    }
    let code = code_of(&file.text);
    for (number, line) in (1..).zip(code.lines()) {
        if has_word(line, "unsafe") && !UNSAFE.iter().any(|dir| file.path.starts_with(dir)) {
            say(number, format!("`unsafe` outside {}: move it there", UNSAFE.join(", ")));
        }
        for (word, what_to_do) in WORDS {
            if has_word(line, word) {
                say(number, format!("`{word}`: {what_to_do}"));
            }
        }
    }
    for line in without_reason(&code) {
        say(line, "silences the compiler without a `reason`: add it".into());
    }
    found
}

fn limit(path: &str) -> usize {
    match path.rsplit('/').next() {
        Some("lib.rs") => LIB_LINES,
        Some("main.rs") => MAIN_LINES,
        _ => FILE_LINES,
    }
}

/// Whether a word is there by itself, not as part of another.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// Lines with attributes that silence the compiler and do not say why.
fn without_reason(code: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for silencer in SILENCERS {
        for (at, _) in code.match_indices(silencer) {
            let behind = &code[at..];
            let attribute = &behind[..behind.find(']').unwrap_or(behind.len())];
            if !has_word(attribute, "reason") {
                found.push(code[..at].matches('\n').count() + 1);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let check = |path: &str, code: &str, expected: &[(usize, &str)]| {
            let file = File { path: path.into(), text: format!("//! Doc.\n{code}") };
            let found = check_file(&file);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (violation, (line, part)) in found.iter().zip(expected) {
                assert_eq!(violation.line, *line, "{violation}");
                assert!(violation.text.contains(part), "{violation}");
            }
        };
        check("a.rs", "fn main() {}\n", &[]);
        check("a.rs", "unsafe { x() }\n", &[(2, "`unsafe` outside")]);
        check("shim/src/sys/a.rs", "unsafe { x() }\n", &[]);
        check("a.rs", "#![deny(unsafe_code)] // unsafe\n\"unsafe\"\n", &[]);
        check("a.rs", "\ntodo!()\n", &[(3, "`todo!`")]);
        check("a.rs", "mytodo!(); // todo!()\n", &[]);
        check("a.rs", "dbg!(unimplemented!())\n", &[(2, "unimplemented"), (2, "dbg")]);
        check("a.rs", "#[ignore = \"slow\"]\n#[ignore]\n", &[(2, "ignore"), (3, "ignore")]);
        check("a.rs", "#[allow(\n    x,\n)]\n", &[(2, "reason")]);
        check("a.rs", "#[expect(\n    x,\n    reason = \"y\"\n)]\n", &[]);
        check("a/src/lib.rs", &"\n".repeat(LIB_LINES), &[(LIB_LINES + 1, "161 lines")]);
        check("a/src/main.rs", &"\n".repeat(MAIN_LINES), &[(MAIN_LINES + 1, "81 lines")]);
        check("a.rs", &"\n".repeat(FILE_LINES - 1), &[]);
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        let file = File { path: "a.rs".into(), text: "// Doc.\n".into() };
        assert_eq!(check_file(&file).len(), 1);
    }

    #[test]
    fn the_kernel_has_a_budget() {
        let file = |name: &str, lines: usize| File {
            path: format!("{KERNEL}{name}.rs"),
            text: format!("//!{}", "\n".repeat(lines)),
        };
        let half = KERNEL_LINES / 8;
        let files: Vec<File> = (0..8).map(|n| file(&n.to_string(), half)).collect();
        assert_eq!(check(&files).len(), 0);
        let more: Vec<File> = (0..9).map(|n| file(&n.to_string(), half)).collect();
        assert_eq!(check(&more).len(), 1);
    }
}
