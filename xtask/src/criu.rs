//! `cargo xtask criu`: a criu that works on this kernel, for the tests of checkpoint and restore.
//!
//! criu must be as new as the kernel, and that of a stable Debian is not. Debian's unstable one needs
//! newer libraries than there are here, so it is put with those into the target directory, and started by
//! its own dynamic loader. Nothing is installed. The packages come from the machine's own mirror of
//! Debian, and apt checks their signatures as ever.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{output, root, run};

/// The suite of Debian that has the newest.
const SUITE: &str = "sid";

/// What signs all of Debian's suites.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Beside it is `root`, with what was unpacked.
const WRAPPER: &str = r#"#!/bin/sh
root="$(dirname "$0")/root"
libraries="$root/usr/lib/x86_64-linux-gnu"
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$root/usr/sbin/criu" "$@"
"#;

fn dir() -> PathBuf {
    root().join("target/criu")
}

/// Makes target/criu, unless it is there.
pub(crate) fn install() -> Result<()> {
    if works(&dir().join("criu")) {
        return Ok(());
    }
    remove(&dir())?;
    let fresh = dir().with_extension("new");
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("make {}", fresh.display()))?;
    let system = Path::new("/usr/sbin/criu");
    if works(system) {
        std::os::unix::fs::symlink(system, fresh.join("criu"))
            .context("link to the system's criu")?;
    } else {
        fetch(&fresh)?;
    }
    if !works(&fresh.join("criu")) {
        bail!("`{}/criu check` fails on this kernel", fresh.display());
    }
    fs::rename(&fresh, dir()).with_context(|| format!("rename {}", fresh.display()))
}

/// As [`install`], for a gate that can do without: the tests then say that they are skipped, and why.
pub(crate) fn try_install() -> Result<()> {
    if let Err(error) = install() {
        eprintln!(
            "xtask: no criu, so the tests that restore are skipped, each by its name: {error:#}"
        );
    }
    Ok(())
}

fn works(criu: &Path) -> bool {
    let mut check = Command::new(criu);
    check.arg("check").stdout(Stdio::null()).stderr(Stdio::null());
    check.status().is_ok_and(|status| status.success())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Unpacks criu and all that it needs into `fresh`.
fn fetch(fresh: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("it is only known how to get one for x86_64");
    }
    let mirror = mirror()?;
    eprintln!("xtask: unpacking criu of Debian {SUITE} into target/criu");
    let apt = fresh.join("apt");
    for part in ["lists/partial", "archives/partial"] {
        let part = apt.join(part);
        fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    }
    let config = apt.join("apt.conf");
    let sources = apt.join("sources.list");
    write(&sources, &format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n"))?;
    write(&config, &configuration(&apt, &sources))?;
    run(apt_get(&config, &["update"]).stdout(Stdio::null()))?;
    let install = ["install", "--download-only", "--yes", "--no-install-recommends", "criu"];
    run(apt_get(&config, &install).stdout(Stdio::null()))?;
    let archives = apt.join("archives");
    for entry in fs::read_dir(&archives).with_context(|| format!("list {}", archives.display()))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(fresh.join("root")))?;
        }
    }
    let wrapper = fresh.join("criu");
    write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", wrapper.display()))?;
    remove(&apt)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Where this machine gets Debian from.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)"]);
    targets.args(["Identifier: Packages", "Origin: Debian", "Label: Debian"]);
    let mirrors = output(&mut targets)?;
    let first = mirrors.lines().next().map(|uri| uri.trim_end_matches('/').to_owned());
    first.context("apt has no lists of Debian's packages; run `apt-get update`")
}

/// apt's, with nothing of the machine's: its lists, its packages, and no package that is installed.
fn configuration(apt: &Path, sources: &Path) -> String {
    let entry = |name: &str, value: &dyn std::fmt::Display| format!("{name} \"{value}\";\n");
    [
        entry("Dir::Etc::sourcelist", &sources.display()),
        entry("Dir::Etc::sourceparts", &"-"),
        entry("Dir::State", &apt.display()),
        entry("Dir::State::status", &"/dev/null"),
        entry("Dir::Cache", &apt.display()),
        // The machine's clock may be ahead of the suite's last change.
        entry("Acquire::Check-Valid-Until", &"false"),
        entry("Acquire::Languages", &"none"),
        // The directory is the user's, and no one else's.
        entry("APT::Sandbox::User", &"root"),
    ]
    .concat()
}

fn apt_get(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").args(args).env("APT_CONFIG", config).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
