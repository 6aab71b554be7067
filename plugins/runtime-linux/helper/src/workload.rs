//! The last step in the container: finding the user's program and becoming it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use seccompiler::BpfProgram;

/// What a shell gives for a program that is there but cannot be run.
const NOT_EXECUTABLE: i32 = 126;

/// Becomes the program of the spec. Unlike libcontainer's own it takes a program that only its owner
/// may run, and gives SIGPIPE back its default, which Rust programs turn off.
#[derive(Clone)]
pub(crate) struct Program {
    /// What the kernel is to refuse it, if that is not libcontainer's to install.
    pub(crate) filter: Option<BpfProgram>,
}

/// What the daemon looks for in the runtime's words (runtime-linux, failure.rs), to tell 126 from 127.
fn missing(name: &str) -> String {
    format!("command {name:?}: executable file not found in the container")
}

fn denied(name: &str) -> String {
    format!("command {name:?}: permission denied, it is not executable")
}

fn args(spec: &Spec) -> Option<&[String]> {
    spec.process().as_ref()?.args().as_deref().filter(|args| !args.is_empty())
}

fn search_path(spec: &Spec) -> Vec<PathBuf> {
    let env = spec.process().as_ref().and_then(|process| process.env().as_ref());
    let path = env.and_then(|env| env.iter().find_map(|v| v.strip_prefix("PATH=")));
    std::env::split_paths(path.unwrap_or("/usr/local/bin:/usr/bin:/bin")).collect()
}

/// The file that a name means, by the rules of execvp(3).
fn find(name: &str, dirs: &[PathBuf]) -> Result<PathBuf, String> {
    let candidates: Vec<PathBuf> = match name.contains('/') {
        true => vec![name.into()],
        false => dirs.iter().map(|dir| dir.join(name)).collect(),
    };
    let mut was_denied = false;
    for candidate in candidates {
        match fs::metadata(&candidate) {
            Ok(about) if about.is_file() && about.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(_) => was_denied = true,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => was_denied = true,
            Err(_) => {}
        }
    }
    Err(if was_denied { denied(name) } else { missing(name) })
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let bad = ExecutorValidationError::ArgValidationError;
        let args = args(spec).ok_or_else(|| bad("the spec has no process.args".into()))?;
        find(&args[0], &search_path(spec)).map_err(bad)?;
        // Here, where libcontainer has just done so if it was its own: a failure is one of `create`.
        if let Some(filter) = &self.filter {
            seccompiler::apply_filter(filter)
                .map_err(|error| bad(format!("install the seccomp profile: {error}")))?;
        }
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = args(spec).ok_or(ExecutorError::InvalidArg)?;
        let program = find(&args[0], &search_path(spec)).map_err(ExecutorError::Other)?;
        let error = become_program(&program, &args[0], &args[1..]);
        // The container is started: there is nobody to tell but its own stderr.
        eprintln!("command {:?}: {error}", args[0]);
        std::process::exit(NOT_EXECUTABLE)
    }
}

fn become_program(program: &Path, name: impl AsRef<OsStr>, args: &[String]) -> std::io::Error {
    Command::new(program).arg0(name).args(args).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for (path, mode) in [(&one, 0o600), (&two, 0o700)] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("tool"), "").unwrap();
            fs::set_permissions(path.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(two.join("dir")).unwrap();
        let dirs = [one.clone(), two.clone()];
        assert_eq!(find("tool", &dirs).unwrap(), two.join("tool"));
        assert_eq!(find("tool", &dirs[..1]).unwrap_err(), denied("tool"));
        assert_eq!(find("dir", &dirs).unwrap_err(), denied("dir"));
        assert_eq!(find("none", &dirs).unwrap_err(), missing("none"));
        let absolute = two.join("tool").to_string_lossy().into_owned();
        assert_eq!(find(&absolute, &[]).unwrap(), two.join("tool"));
        assert_eq!(find("/none", &dirs).unwrap_err(), missing("/none"));
    }
}
