//! Programs that a plugin calls: found in the usual places, started with nothing of ours, and read to their end.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capstan_schema::{Class, Error, Result};

/// Where administrators' programs are, whatever `PATH` says.
const PLACES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds a program. `package` is Debian's that has it.
///
/// # Errors
/// `FailedPrecondition`: it is not there.
pub fn find(name: &str, package: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(PLACES.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::precondition(format!("there is no {name}; install it (Debian: {package})"))
        })
}

/// Runs a program to its end and answers what it wrote. This blocks.
///
/// # Errors
/// `ResourceExhausted`: it says that there is no space. Otherwise `Internal`, with the last line of its complaints.
pub fn run<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::io(format!("start {}", program.display()), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    let is_full = said.contains("No space left") || said.contains("ENOSPC");
    let class = if is_full { Class::ResourceExhausted } else { Class::Internal };
    Err(Error::new(class, format!("{}: {}: {last}", program.display(), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_run() {
        let echo = find("echo", "coreutils").unwrap();
        assert_eq!(run(&echo, ["a", "b"]).unwrap(), "a b\n");
        let shell = find("sh", "dash").unwrap();
        let error = run(&shell, ["-c", "echo ENOSPC >&2; exit 3"]).unwrap_err();
        assert_eq!(error.class(), Class::ResourceExhausted);
        let error = run(&shell, ["-c", "echo one >&2; echo two >&2; exit 3"]).unwrap_err();
        assert!(error.message().contains("exit status: 3: two"), "{error}");
        let error = find("no-such-program", "no-such-package").unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
    }
}
