//! Debian packages that a task needs. What is missing is said before it is installed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{line, run};

/// What packages are for. Each holds those above it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// To build the binaries.
    Build,
    /// To see them at work.
    Demo,
    /// To run the whole gate.
    Ci,
    /// To measure them against their peers.
    Bench,
}

/// Every package once, with what wants it.
const PACKAGES: &[(Set, &str)] = &[
    // The linker.
    (Set::Build, "gcc"),
    (Set::Build, "libc6-dev"),
    // The embedded runtime.
    (Set::Build, "libseccomp-dev"),
    (Set::Build, "pkg-config"),
    // Images, a registry to serve them, and a disk to put them on.
    (Set::Demo, "busybox-static"),
    (Set::Demo, "docker-registry"),
    (Set::Demo, "e2fsprogs"),
    (Set::Demo, "mount"),
    (Set::Demo, "skopeo"),
    // The test images (integration/data/make-images.sh).
    (Set::Ci, "attr"),
    (Set::Ci, "mmdebstrap"),
    (Set::Ci, "python3"),
    (Set::Ci, "umoci"),
    // The plugin in Python (`cargo xtask python`).
    (Set::Ci, "python3-venv"),
    // `cargo xtask tidy` looks at what is checked in.
    (Set::Ci, "git"),
    // `cargo xtask schema`.
    (Set::Ci, "capnproto"),
    (Set::Ci, "libcapnp-dev"),
    // Compressed archives.
    (Set::Ci, "zstd"),
    // A file system with reflinks (integration/third-party/reflink).
    (Set::Ci, "xfsprogs"),
    // The snapshotters btrfs and erofs.
    (Set::Ci, "btrfs-progs"),
    (Set::Ci, "erofs-utils"),
    // Limits of writable layers, in a virtual machine (`cargo xtask machine`).
    (Set::Ci, "qemu-system-x86"),
    (Set::Ci, "quota"),
    // Other runtimes behind our shim.
    (Set::Ci, "crun"),
    (Set::Ci, "runc"),
    // Terminal sessions.
    (Set::Ci, "tmux"),
    // The peer, whose trees of a corpus of layers ours are compared with.
    (Set::Ci, "containerd"),
];

/// Packages whose service Debian starts as they are installed. We only want their programs.
const SERVICES: [&str; 2] = ["containerd", "docker-registry"];

/// Installs what is missing of a set.
pub(crate) fn install(set: Set) -> Result<()> {
    let wanted: Vec<&str> =
        PACKAGES.iter().filter(|(of, _)| *of <= set).map(|(_, package)| *package).collect();
    let missing = match installed(&wanted) {
        Ok(status) => missing(&wanted, &status),
        Err(_) => {
            eprintln!("xtask: there is no dpkg-query, so these are yours to have: {wanted:?}");
            return Ok(());
        }
    };
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = apt(["install", "--yes", "--no-install-recommends"]);
    install.args(&missing);
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("Debian packages are missing and only root can install them: {}", line(&install));
    }
    eprintln!("xtask: missing: {}; running: apt-get update; {}", missing.join(" "), line(&install));
    run(&mut apt(["update"]))?;
    let services: Vec<&str> =
        SERVICES.into_iter().filter(|service| missing.contains(service)).collect();
    // Without systemd as init nothing is started.
    if services.is_empty() || !Path::new("/run/systemd/system").exists() {
        return run(&mut install);
    }
    eprintln!("xtask: their services are masked meanwhile, so that they do not start");
    run(systemctl("mask").args(&services))?;
    let installed = run(&mut install);
    let unmasked = run(systemctl("unmask").args(&services));
    installed.and(unmasked)
}

fn apt<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("apt-get");
    // No progress: it is for a terminal, and may end in a log.
    command
        .args(["-q", "-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// `--runtime`: whatever becomes of us, it is gone after a boot.
fn systemctl(verb: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("systemctl");
    command.arg("--runtime").arg(verb);
    command
}

/// What dpkg-query says of packages. It fails for those it never heard of, and says the rest.
fn installed(packages: &[&str]) -> std::io::Result<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing<'a>(wanted: &[&'a str], status: &str) -> Vec<&'a str> {
    let is_installed =
        |package: &str| status.lines().any(|line| line == format!("{package} installed"));
    wanted.iter().copied().filter(|package| !is_installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        let check = |status: &str, expected: &[&str]| {
            assert_eq!(missing(&["gcc", "runc"], status), expected, "{status:?}");
        };
        check("", &["gcc", "runc"]);
        check("gcc installed\nrunc installed\n", &[]);
        check("gcc installed\nrunc config-files\n", &["runc"]);
        check("gcc-12 installed\nrunc installed\n", &["gcc"]);
    }
}
