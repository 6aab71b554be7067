//! `cargo xtask python`: a Python with pycapnp in it, for the plugin and the client in integration/third-party.
//!
//! Debian has no pycapnp, so it goes into an environment of its own in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::command::{root, run};
use crate::packages::{self, Set};

/// What is installed. Another version here makes the environment anew.
const PYCAPNP: &str = "2.2.4";

/// Makes the environment, unless it is there.
pub(crate) fn install() -> Result<()> {
    packages::install(Set::Ci)?;
    let environment = root().join("target/python");
    let python = environment.join("bin/python");
    if has_pycapnp(&python) {
        return Ok(());
    }
    if environment.exists() {
        fs::remove_dir_all(&environment)
            .with_context(|| format!("remove {}", environment.display()))?;
    }
    eprintln!("xtask: installing pycapnp {PYCAPNP} into target/python");
    run(Command::new(system()).args(["-m", "venv"]).arg(&environment))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    // Built from source it would take minutes, and a compiler for C++.
    pip.args(["--only-binary", ":all:"]).arg(format!("pycapnp=={PYCAPNP}"));
    run(&mut pip)
}

fn has_pycapnp(python: &Path) -> bool {
    let program = format!("import capnp, sys; sys.exit(capnp.__version__ != {PYCAPNP:?})");
    let mut command = Command::new(python);
    command.args(["-c", &program]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Debian's own, for which python3-venv is installed, or whatever there is.
fn system() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    if debian.is_file() { debian } else { "python3".into() }
}
