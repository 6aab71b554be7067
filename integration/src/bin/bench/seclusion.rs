//! Keeping the machine as it was.
//!
//! The benchmark runs in mount and pid namespaces of its own, so its mounts and its processes (daemons,
//! shims, containers) end with it, whatever happens; nothing it kills can be anybody else's. A shell is
//! the first process there: it reaps orphans, and sweeps when the benchmark has ended, by Ctrl-C too.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use capstan_integration::{Remains, find};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Set inside: the directory that everything is in, and the name of all our cgroups.
const DIR: &str = "CAPSTAN_BENCH_DIR";

/// Where a v1 hugetlb hierarchy is mounted, on the `/run` of our own.
const HUGETLB: &str = "/run/hugetlb";

/// The trap keeps the shell from ending with what Ctrl-C ends, before it has swept.
const SHELL: &str = r#"trap : INT; "$0" "$@"; code=$?; "$0" --sweep; exit $code"#;

/// Whether this process is inside already.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(DIR).is_some()
}

/// Starts this program anew, inside; returns only on failure.
pub(crate) fn enter() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("capstan-bench: needs root: it mounts disks and runs containers");
        return ExitCode::FAILURE;
    }
    let dir = tempfile::Builder::new()
        .prefix("capstan-bench-")
        .tempdir()
        .expect("make a directory")
        .keep();
    let program = std::env::current_exe().expect("find our own program");
    let error = Command::new(find("unshare"))
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SHELL])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env("TMPDIR", &dir)
        .env(DIR, &dir)
        .exec();
    eprintln!("capstan-bench: start unshare: {error}");
    ExitCode::FAILURE
}

fn dir() -> PathBuf {
    PathBuf::from(std::env::var_os(DIR).expect("we are inside"))
}

/// The cgroup that all of ours are below.
pub(crate) fn cgroup() -> String {
    dir().file_name().expect("a directory of ours").to_string_lossy().into_owned()
}

/// Makes the inside fit for what is run there.
///
/// crun refuses a hybrid layout while the v2 hierarchy has a controller, and `hugetlb` is there until a v1
/// hierarchy takes it. capstan hides the v2 mount from crun instead; containerd does not. And `/run` is
/// empty, because peers leave things there.
pub(crate) fn prepare() {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .expect("mount a tmpfs");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_v1 = mounts.lines().any(|line| line.contains(" - cgroup ") && line.contains("hugetlb"));
    if controllers().is_some() && !is_v1 {
        fs::create_dir(HUGETLB).expect("make a mount point");
        take_hugetlb();
    }
}

/// Undoes what a run did outside, however it ended.
pub(crate) fn sweep() {
    let dir = dir();
    // The cgroup of a process that has just ended is busy for a moment.
    for _ in 0..20 {
        Remains::of(&dir, &cgroup()).end();
        if Remains::of(&dir, &cgroup()).cgroups.is_empty() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    if Path::new(HUGETLB).is_dir() {
        give_hugetlb_back();
    }
    if let Err(error) = fs::remove_dir_all(&dir) {
        eprintln!("capstan-bench: remove {}: {error}", dir.display());
    }
}

/// What the v2 hierarchy controls, on a hybrid layout.
fn controllers() -> Option<String> {
    let text = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").ok()?;
    Some(text.trim().to_owned())
}

fn take_hugetlb() {
    mount(Some("none"), HUGETLB, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))
        .expect("mount a v1 hugetlb hierarchy");
}

/// Unmounts it until v2 has the controller again.
///
/// The kernel gives it back only if no cgroup is left at the last unmount, and a removed one is left for
/// some milliseconds.
fn give_hugetlb_back() {
    for _ in 0..50 {
        remove_empty(&Path::new(HUGETLB).join(cgroup()));
        if let Err(error) = umount2(HUGETLB, MntFlags::empty()) {
            eprintln!("capstan-bench: unmount {HUGETLB}: {error}");
            return;
        }
        sleep(Duration::from_millis(100));
        if controllers().is_none_or(|controllers| !controllers.is_empty()) {
            return;
        }
        take_hugetlb();
    }
    let _ = umount2(HUGETLB, MntFlags::empty());
    eprintln!("capstan-bench: the hugetlb controller is still with a v1 hierarchy");
}

/// Removes cgroups from the inside out; one with a process in it stays.
fn remove_empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
