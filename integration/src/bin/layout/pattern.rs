//! Names of functions as the linker is told them: without what changes with each compiler and each version.

/// The pattern of the section that the function `name` is in. `None`: it has no section of its own.
pub(crate) fn pattern(name: &str) -> Option<String> {
    // The entry, and what comes with the C library.
    if name.starts_with("_start") || name.starts_with("_dl_") {
        return None;
    }
    // What the optimiser made of a private name is private to one run of it.
    let (name, tail) = match name.split_once(".llvm.") {
        Some((name, _)) => (name, ".llvm.*"),
        None => (name, ""),
    };
    let name = if name.starts_with("_R") { without_crates(name) } else { without_hash(name) };
    Some(format!(".text.{name}{tail}"))
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
            assert_eq!(pattern(name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(pattern("_start"), None);
    }
}
