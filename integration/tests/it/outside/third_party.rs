//! Crates that are not of this workspace, built by cargo.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_integration::Host;

/// The checkout.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is a directory in it")
}

/// Where all of them are built, so that their dependencies are built once; `cargo xtask build --test` builds them
/// there ahead of time.
pub(super) fn target() -> PathBuf {
    root().join("target/third-party")
}

/// Runs a command that must succeed; answers what it wrote to stdout.
pub(super) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Cargo in a crate, building into [`target`]. All that it needs was downloaded with the dependencies of this workspace.
pub(super) fn cargo(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    succeed(command.args(args).arg("--offline").current_dir(dir).env("CARGO_TARGET_DIR", target()))
}

/// Builds one of `integration/third-party`; answers the directory with what was built.
pub(crate) fn build(name: &str) -> PathBuf {
    let dir = root().join("integration/third-party").join(name);
    cargo(&dir, &["build", "--locked", "--quiet", "--lib", "--bins", "--examples"]);
    target().join("debug")
}

/// A copy on the host's disk, where only root can write.
pub(crate) fn place(host: &Host, file: &Path) -> String {
    let to = host.path(&file.file_name().expect("a file").to_string_lossy());
    fs::copy(file, &to).unwrap_or_else(|error| panic!("copy {}: {error}", file.display()));
    fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("set a mode");
    to.display().to_string()
}
