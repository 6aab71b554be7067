//! Names of functions as the linker is told them: without what changes with each compiler and each version.

use std::collections::BTreeSet;

/// A pattern is not cut shorter, or it would catch what has nothing to do with it once that is written.
const SHORTEST: usize = 32;

/// How much longer than it takes patterns are: a `*` in the middle may stand for more than was meant.
const MARGIN: usize = 12;

/// The pattern of the section that the function `name` is in.
pub(crate) fn pattern(name: &str) -> String {
    // What the optimiser made of a private name is private to one run of it.
    let (name, tail) = match name.split_once(".llvm.") {
        Some((name, _)) => (name, ".llvm.*"),
        None => (name, ""),
    };
    let name = if name.starts_with("_R") { without_crates(name) } else { without_hash(name) };
    format!(".text.{name}{tail}")
}

/// Fewer and shorter patterns for `chosen`: of each as much as tells it from all of the `others`.
pub(crate) fn shortened(chosen: &BTreeSet<String>, others: &BTreeSet<String>) -> BTreeSet<String> {
    let shorten = |pattern: &String| {
        let before = others.range(..pattern.clone()).next_back();
        let after = others.range(pattern.clone()..).next();
        let shared = before.into_iter().chain(after).map(|other| shared(pattern, other)).max();
        match pattern.get(..(shared.unwrap_or(0) + MARGIN).max(SHORTEST)) {
            Some(start) if start.len() < pattern.len() => format!("{start}*").replace("**", "*"),
            _ => pattern.clone(),
        }
    };
    chosen.iter().map(shorten).collect()
}

/// How long a beginning they share.
fn shared(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count()
}

/// Rust's own form. The identity of a crate is in it (`Cs1a2b_`), and, because that is not always of one length, so
/// are places in the name itself (`B1f_`).
fn without_crates(name: &str) -> String {
    let mut result = String::new();
    let mut rest = name;
    while let Some(at) = rest.find(['B', 'C']) {
        let (before, from) = rest.split_at(at);
        result.push_str(before);
        let mark = if from.starts_with("Cs") { "Cs" } else { "B" };
        let end = from.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(from.len());
        if from.starts_with(mark) && from[end..].starts_with('_') {
            result.push_str(mark);
            result.push_str("*_");
            rest = &from[end + 1..];
        } else {
            result.push_str(&from[..1]);
            rest = &from[1..];
        }
    }
    result + rest
}

/// The older form, which the standard library has: a hash at the end (`17h0123456789abcdefE`). Other languages have none.
fn without_hash(name: &str) -> String {
    match name.rfind("17h") {
        Some(at) if name.starts_with("_ZN") => format!("{}17h*", &name[..at]),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_left_out() {
        let cases = [
            ("main", ".text.main"),
            ("_ZN3std2rt4init17h0123456789abcdefE", ".text._ZN3std2rt4init17h*"),
            ("_ZN3std2io4read17h0123456789abcdefE.llvm.77", ".text._ZN3std2io4read17h*.llvm.*"),
            ("_RNvCs1aZ_7capstan4main", ".text._RNvCs*_7capstan4main"),
            ("_RNCNvNtCs9_3sdk3run0Bb_.llvm.12", ".text._RNCNvNtCs*_3sdk3run0B*_.llvm.*"),
            ("_RNvC7capstan4Call", ".text._RNvC7capstan4Call"),
        ];
        for (name, expected) in cases {
            assert_eq!(pattern(name), expected, "{name}");
        }
    }

    #[test]
    fn patterns_are_as_long_as_it_takes() {
        let set = |names: &[&str]| names.iter().map(|name| format!(".text.{name}")).collect();
        let others = set(&["_RNvMs_NtCs*_12capstan_tasks4plugin3ask", "_RNvMs_NtCs*_7other"]);
        let chosen = set(&[
            "_RNvMs_NtCs*_12capstan_tasks4plugin3add",
            "_RNvMs_NtCs*_12capstan_tasks4plugin3add_and_go_on_with_it",
            "_RNvMs_NtCs*_12capstan_tasks4plugin8add_many",
            "_RNvMs_NtCs*_5there_is_nothing_that_is_like_this",
            "_RNvMs_NtCs*_5there_is_nothing_that_was_like_this",
        ]);
        let expected = set(&[
            "_RNvMs_NtCs*_12capstan_tasks4plugin3add",
            "_RNvMs_NtCs*_12capstan_tasks4plugin3add_and_go_on*",
            "_RNvMs_NtCs*_12capstan_tasks4plugin8add_many",
            "_RNvMs_NtCs*_5there_is_not*",
        ]);
        assert_eq!(shortened(&chosen, &others), expected);
        assert_eq!(shortened(&set(&["main"]), &set(&["memcpy"])), set(&["main"]));
    }
}
