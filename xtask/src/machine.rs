//! `cargo xtask machine`: a kernel for a virtual machine, for the tests of what the kernel here lacks.
//!
//! It is Debian's own for machines in a cloud, put into the target directory with the modules that the tests load. Nothing
//! is installed but qemu. The package comes from the machine's own mirror of Debian, and apt checks
//! its signature as ever.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{output, root, run};
use crate::packages::{self, Set};

/// It depends on the newest.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Directories of modules that the tests need, with what those modules need.
const MODULES: [&str; 9] = [
    "arch/x86/crypto",
    "crypto",
    "drivers/block",
    "fs/btrfs",
    "fs/erofs",
    "fs/overlayfs",
    "fs/quota",
    "fs/xfs",
    "lib",
];

fn dir() -> PathBuf {
    root().join("target/machine")
}

/// Makes target/machine, unless it is there: `linux`, and `modules.cpio` to be put before other archives.
pub(crate) fn install() -> Result<()> {
    packages::install(Set::Ci)?;
    if dir().join("linux").is_file() && dir().join("modules.cpio").is_file() {
        return Ok(());
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("it is only known how to get one for x86_64");
    }
    remove(&dir())?;
    let fresh = dir().with_extension("new");
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("make {}", fresh.display()))?;
    let package = download(&fresh)?;
    eprintln!("xtask: unpacking {package} of Debian into target/machine");
    unpack(&fresh)?;
    fs::rename(&fresh, dir()).with_context(|| format!("rename {}", fresh.display()))
}

/// As [`install`], for a gate that can do without: the tests then say that they are skipped, and why.
pub(crate) fn try_install() -> Result<()> {
    if let Err(error) = install() {
        eprintln!(
            "xtask: no virtual machine, so the tests that need one are skipped, each by its name: {error:#}"
        );
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Fetches the kernel's package into `fresh`; answers its name.
fn download(fresh: &Path) -> Result<String> {
    let download = || -> Result<String> {
        let depends = output(Command::new("apt-cache").args(["depends", KERNEL]))?;
        let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.map(str::to_owned).find(|name| name.starts_with("linux-image-"));
        let name = name.with_context(|| format!("apt knows no kernel of {KERNEL}"))?;
        let mut apt = Command::new("apt-get");
        // The directory is the user's, and no one else's.
        apt.args(["-q", "-o", "APT::Sandbox::User=root", "download", &name]);
        run(apt.current_dir(fresh).stdout(Stdio::null()))?;
        Ok(name)
    };
    download().or_else(|_| {
        // Its lists are missing, or too old.
        run(Command::new("apt-get").args(["-q", "update"]).stdout(Stdio::null()))?;
        download()
    })
}

/// Keeps of the package what is needed.
fn unpack(fresh: &Path) -> Result<()> {
    let [all, kept] = ["all", "kept"].map(|name| fresh.join(name));
    let package = only(fresh, "linux-image-")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&all))?;
    fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
    let kernel = only(&all.join("boot"), "vmlinuz-")?;
    let linux = fresh.join("linux");
    fs::rename(&kernel, &linux).with_context(|| format!("rename {}", kernel.display()))?;
    let modules = only(&all.join("lib/modules"), "")?;
    let version = modules.file_name().context("the modules are of a version")?;
    let to = kept.join("lib/modules").join(version);
    for name in MODULES {
        let to = to.join("kernel").join(name);
        fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
        let from = modules.join("kernel").join(name).join(".");
        run(Command::new("cp").arg("-r").arg(from).arg(to))?;
    }
    for name in ["modules.builtin", "modules.order"] {
        let from = modules.join(name);
        fs::copy(&from, to.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    run(Command::new("busybox").args(["depmod", "-b"]).arg(&kept).arg(version))?;
    let archive = fresh.join("modules.cpio");
    let archive = File::create(&archive).with_context(|| format!("make {}", archive.display()))?;
    let pack = "find lib | busybox cpio -o -H newc 2>/dev/null";
    run(Command::new("sh").args(["-c", pack]).current_dir(&kept).stdout(archive))?;
    remove(&all)?;
    remove(&kept)
}

/// The entry of a directory whose name begins so.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let list = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in list {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("there is no {prefix} in {}", dir.display())
}
