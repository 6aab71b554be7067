//! Where programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// A criu that works on this machine; without one, why there is none.
///
/// # Errors
/// The reason, for the test that says that it is skipped.
pub fn criu() -> Result<PathBuf, String> {
    let path = target().join("criu/criu");
    if !path.is_file() {
        return Err(format!("{} is not there: `cargo xtask criu` makes it", path.display()));
    }
    let check = Command::new(&path).arg("check").output().map_err(|error| error.to_string())?;
    if !check.status.success() {
        let said = String::from_utf8_lossy(&check.stderr);
        let last = said.lines().last().unwrap_or_default();
        return Err(format!("criu check: {last}"));
    }
    Ok(path)
}

/// A program of the system.
pub fn find(name: &str) -> PathBuf {
    let dirs = ["/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; `cargo xtask ci` installs it"))
}
