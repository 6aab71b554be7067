//! Where programs are.

use std::path::{Path, PathBuf};

/// The directory of capstan's own programs: `CAPSTAN_BIN`, or where `cargo xtask build --test` puts them.
fn own_dir() -> PathBuf {
    std::env::var_os("CAPSTAN_BIN").map_or_else(|| target().join("capstan-test"), PathBuf::from)
}

/// The checkout's target directory, which fixtures are kept in.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a directory of it").join("target")
}

/// One of capstan's own programs.
pub fn program(name: &str) -> PathBuf {
    let path = own_dir().join(name);
    assert!(path.is_file(), "{} is not there: run `cargo xtask build --test`", path.display());
    path
}

/// A program in Python from `third-party/python`, ready to be given arguments: the interpreter and the file.
pub fn python(name: &str) -> [PathBuf; 2] {
    let interpreter = target().join("python/bin/python");
    assert!(
        interpreter.is_file(),
        "{} is not there: `cargo xtask ci` makes it, and `cargo xtask python` alone",
        interpreter.display()
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("third-party/python").join(name);
    assert!(file.is_file(), "{} is not there", file.display());
    [interpreter, file]
}

/// A program of the system.
pub fn find(name: &str) -> PathBuf {
    let dirs = ["/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; `cargo xtask ci` installs it"))
}
