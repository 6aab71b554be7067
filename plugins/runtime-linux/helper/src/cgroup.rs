//! Cgroups of version 1, joined without stopping the machine.
//!
//! libcontainer moves its child with `cgroup.procs`, for which the kernel first waits until no process
//! is being forked or ends anywhere: 8 to 20 ms when the machine is idle (2 cores, Linux 6.18; all else in a
//! create takes 10 ms), and everybody's forks wait meanwhile. A thread that moves itself with `tasks` needs
//! none of that (0.1 ms). So this process, which has one thread, enters the container's cgroups itself,
//! what libcontainer forks is born there, and libcontainer sees no hierarchy to move anything in.
//!
//! With version 2, libcontainer does it all.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libcgroups::common::{CgroupManager as _, ControllerOpt};
use libcgroups::v1::manager::Manager;
use libcontainer::oci_spec::runtime::{LinuxResources, Spec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, open, statfs};
use rustix::process::{Pid, PidfdFlags, Signal, fchdir, pidfd_open, pidfd_send_signal};

/// Where the hierarchies are.
const ROOT: &str = "/sys/fs/cgroup";

/// What statfs(2) says of a tmpfs, which is what holds the hierarchies of version 1.
const TMPFS: i64 = 0x0102_1994;

/// How long processes that are killed may take to be gone, and how often we look.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// What libcontainer knows, and so removes.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// The path of a spec's cgroups, if they can be entered here.
pub(crate) fn path_of(spec: &Spec) -> Option<&Path> {
    let path = spec.linux().as_ref()?.cgroups_path().as_deref()?;
    // What a container is shown of the host's cgroups must be there when it is made.
    let shows = |source: &Path| {
        let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
        Path::new(ROOT).starts_with(&source) || source.starts_with(ROOT)
    };
    let is_shown = spec.mounts().iter().flatten().any(|mount| {
        let kind = mount.typ().as_deref().unwrap_or_default();
        let source = mount.source().as_deref().filter(|source| source.is_absolute());
        kind.starts_with("cgroup") || source.is_some_and(shows)
    });
    (is_below_root(path) && !is_shown && is_version_1()).then_some(path)
}

/// Only where hierarchies are seen from their tops do paths say where a process is.
fn is_version_1() -> bool {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let is_tmpfs = statfs(ROOT).is_ok_and(|about| about.f_type == TMPFS);
    is_tmpfs && !mounts.is_empty() && mounts.iter().all(|mount| mount.is_whole)
}

/// Cgroups that this process is in, while libcontainer does not see them.
pub(crate) struct Entered {
    manager: Manager,
    dirs: Vec<Dir>,
    /// The mount namespace in which they are seen, and our working directory in it.
    seeing: OwnedFd,
    workdir: OwnedFd,
}

/// A cgroup in one hierarchy.
struct Dir {
    path: PathBuf,
    /// Where in the hierarchy we were.
    before: PathBuf,
    /// It was not there.
    is_new: bool,
}

impl Entered {
    /// Makes the cgroups where they are missing, and enters them. After an error we are where we were, and
    /// those that were made for it are gone.
    pub(crate) fn enter(path: &Path) -> Result<Self> {
        Self::enter_in(path, &mounts(&read("/proc/self/mountinfo")?))
    }

    fn enter_in(path: &Path, mounts: &[Hierarchy]) -> Result<Self> {
        let at = || format!("enter the cgroup {}", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let seeing = open("/proc/self/ns/mnt", flags, Mode::empty()).with_context(at)?;
        let workdir = open(".", flags | OFlags::DIRECTORY, Mode::empty()).with_context(at)?;
        let manager = Manager::new(path).with_context(at)?;
        let mut entered = Self { manager, dirs: Vec::new(), seeing, workdir };
        if let Err(error) = entered.enter_all(path, mounts) {
            entered.give_up();
            return Err(error);
        }
        Ok(entered)
    }

    fn enter_all(&mut self, path: &Path, mounts: &[Hierarchy]) -> Result<()> {
        let before = read("/proc/self/cgroup")?;
        for hierarchy in distinct(mounts) {
            let dir = below(&hierarchy.point, path);
            let before = below(&hierarchy.point, hierarchy.path_in(&before));
            self.dirs.push(Dir { path: dir.clone(), before, is_new: !dir.exists() });
            hierarchy.make(&dir)?;
            move_to(&dir)?;
        }
        hide(mounts).context("hide the cgroups from libcontainer")
    }

    /// Goes back, and removes what was made. What was there before, a container that runs, is left alone.
    /// That something of this fails is not told: why it could not enter is.
    fn give_up(&self) {
        // It fails, and need not be, where nothing was hidden yet.
        let _ = self.see();
        for dir in &self.dirs {
            let _ = move_to(&dir.before);
            if dir.is_new {
                let _ = fs::remove_dir(&dir.path);
            }
        }
    }

    fn see(&self) -> Result<()> {
        setns(self.seeing.as_fd(), CloneFlags::CLONE_NEWNS).context("return to our mounts")?;
        // To enter a mount namespace is to be at its root (setns(2)).
        fchdir(&self.workdir).context("return to our working directory")
    }

    /// Sets the limits. It comes last, so that they do not bind what makes the container.
    pub(crate) fn limit(&self, resources: Option<&LinuxResources>) -> Result<()> {
        self.see()?;
        let Some(resources) = resources else { return Ok(()) };
        let options = ControllerOpt {
            resources,
            freezer_state: None,
            oom_score_adj: None,
            disable_oom_killer: false,
        };
        self.manager.apply(&options).context("set the limits of the cgroups")
    }

    /// Leaves them, ends what is left in them of a container that came to nothing, and removes them.
    pub(crate) fn leave(self) -> Result<()> {
        self.see()?;
        for dir in &self.dirs {
            move_to(&dir.before)?;
        }
        self.dirs.iter().try_for_each(|dir| end(&dir.path))
    }
}

/// Kills what is in a cgroup, and removes it when all of that is gone.
fn end(dir: &Path) -> Result<()> {
    let procs = dir.join("cgroup.procs");
    let pids = || -> Vec<Pid> {
        let text = fs::read_to_string(&procs).unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {}
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", dir.display()));
            }
            _ => return Ok(()),
        }
        for pid in pids() {
            // Still in here when we have its handle, it is not a later process of the same number.
            if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
                && pids().contains(&pid)
            {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes a spec's cgroups if nothing is in them; `false` if something is, or if they are not of
/// version 1.
pub(crate) fn remove_empty(spec: &Spec) -> bool {
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let Some(path) = path.filter(|path| is_below_root(path) && is_version_1()) else {
        return false;
    };
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    distinct(&mounts).all(|hierarchy| match fs::remove_dir(below(&hierarchy.point, path)) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    })
}

fn is_below_root(path: &Path) -> bool {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(is_plain) && path.parent().is_some()
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("read {file}"))
}

fn below(point: &Path, path: &Path) -> PathBuf {
    point.join(path.strip_prefix("/").unwrap_or(path))
}

/// Moves this thread, which is the whole process.
fn move_to(dir: &Path) -> Result<()> {
    let tasks = dir.join("tasks");
    fs::write(&tasks, "0").with_context(|| format!("write to {}", tasks.display()))
}

/// In a mount namespace of our own, no hierarchy is mounted.
fn hide(mounts: &[Hierarchy]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    umount2(ROOT, MntFlags::MNT_DETACH)?;
    for mount in mounts.iter().filter(|mount| !mount.point.starts_with(ROOT)) {
        umount2(&mount.point, MntFlags::MNT_DETACH)?;
    }
    // Where libcontainer finds nothing at all, it gives up.
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?;
    Ok(())
}

/// A mount of a hierarchy that libcontainer would use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    point: PathBuf,
    controllers: Vec<String>,
    /// Not a part that somebody was given.
    is_whole: bool,
}

/// Those of a mountinfo file (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let mut head = head.split(' ').skip(3);
        let (root, point) = (head.next()?, head.next()?);
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next()?, tail.nth(1)?);
        let known = options.split(',').filter(|option| CONTROLLERS.contains(option));
        let controllers: Vec<String> = known.map(str::to_owned).collect();
        let is_one = kind == "cgroup" && !controllers.is_empty();
        is_one.then(|| Hierarchy { point: point.into(), controllers, is_whole: root == "/" })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// One mount of each hierarchy.
fn distinct(mounts: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let is_first = |(index, mount): &(usize, &Hierarchy)| {
        mounts[..*index].iter().all(|other| other.controllers != mount.controllers)
    };
    mounts.iter().enumerate().filter(is_first).map(|(_, mount)| mount)
}

impl Hierarchy {
    /// Where a process is, by its `/proc/<pid>/cgroup`: lines of `number:controllers:path`.
    fn path_in<'t>(&self, cgroups: &'t str) -> &'t Path {
        let path = |line: &'t str| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = controllers.split(',').any(|name| name == self.controllers[0]);
            is_it.then(|| Path::new(path))
        };
        cgroups.lines().find_map(path).unwrap_or(Path::new("/"))
    }

    /// Makes a cgroup, with those above it. One of cpuset takes no process before it has processors
    /// and memory, and is born without (cgroup-v1/cpusets.rst, section 2.1).
    fn make(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        if !self.controllers.iter().any(|name| name == "cpuset") {
            return Ok(());
        }
        let mut chain: Vec<&Path> =
            dir.ancestors().take_while(|ancestor| *ancestor != self.point).collect();
        chain.reverse();
        for dir in chain {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                inherit(dir, name).with_context(|| format!("set {name} of {}", dir.display()))?;
            }
        }
        Ok(())
    }
}

/// Gives a cgroup the value of the one above it, if it has none.
fn inherit(dir: &Path, name: &str) -> Result<()> {
    if fs::read_to_string(dir.join(name))?.trim().is_empty() {
        let above = dir.parent().context("it is below a mount")?;
        fs::write(dir.join(name), fs::read_to_string(above.join(name))?.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_those_with_controllers() {
        let all = mounts(
            "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             34 25 0:30 /part /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             35 25 0:31 / /sys/fs/cgroup/cpuset rw shared:4 - cgroup cgroup rw,cpuset\n\
             36 25 0:27 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n",
        );
        let points: Vec<&Path> = distinct(&all).map(|found| found.point.as_path()).collect();
        let want = ["cpu", "memory", "cpuset"].map(|name| Path::new(ROOT).join(name));
        assert_eq!(points, want);
        assert_eq!(all.len(), 4, "all are to be hidden");
        assert!(all[0].is_whole && !all[1].is_whole);
        let cgroups = "3:cpuset:/c\n2:cpu,cpuacct:/a/b\n1:name=systemd:/x\n0::/y\n";
        assert_eq!(all[0].path_in(cgroups), Path::new("/a/b"));
        assert_eq!(all[1].path_in(cgroups), Path::new("/"));
        assert_eq!(below(&all[0].point, Path::new("/a")), Path::new("/sys/fs/cgroup/cpu/a"));
    }

    /// It needs root and cgroups of version 1.
    #[test]
    fn what_cannot_be_entered_leaves_nothing() {
        if !is_version_1() {
            return;
        }
        let name = format!("capstan-helper-test-{}", std::process::id());
        let path = Path::new("/").join(name);
        let mut mounts = mounts(&read("/proc/self/mountinfo").unwrap());
        mounts.retain(|mount| mount.controllers == ["pids"] || mount.controllers == ["freezer"]);
        let made: Vec<PathBuf> = mounts.iter().map(|mount| below(&mount.point, &path)).collect();
        // The last one has no place for cgroups: it is a file.
        let point = PathBuf::from("/proc/version");
        mounts.push(Hierarchy { point, controllers: vec!["cpu".into()], is_whole: true });
        let place = || read("/proc/thread-self/cgroup").unwrap();
        let before = place();
        let error = Entered::enter_in(&path, &mounts).err().expect("it cannot be entered");
        assert!(format!("{error:#}").contains("/proc/version"), "{error:#}");
        assert_eq!(made.len(), 2);
        assert!(made.iter().all(|dir| !dir.exists()), "{made:?} are left");
        assert_eq!(place(), before);

        // A cgroup that was there stays there.
        fs::create_dir(&made[0]).unwrap();
        let outcome = Entered::enter_in(&path, &mounts).map(drop);
        let is_there = made[0].exists();
        fs::remove_dir(&made[0]).unwrap();
        assert!(outcome.is_err() && is_there && !made[1].exists());
    }

    #[test]
    fn what_shows_the_hosts_cgroups_is_left_to_libcontainer() {
        let check = |path: &str, mount: &str, is_ours: bool| {
            let spec: Spec = serde_json::from_str(&format!(
                r#"{{"ociVersion": "1.1.0", "linux": {{"cgroupsPath": "{path}"}}, "mounts": [{mount}]}}"#
            ))
            .unwrap();
            assert_eq!(path_of(&spec).is_some(), is_ours && is_version_1(), "{path} {mount}");
        };
        check("/a/b", "", true);
        check("/", "", false);
        check("a/b", "", false);
        check("/a/../b", "", false);
        let bind = |source: &str| {
            format!(r#"{{"destination": "/x", "type": "bind", "source": "{source}"}}"#)
        };
        check("/a", &bind("/etc"), true);
        check("/a", &bind("/"), false);
        check("/a", &bind("/sys"), false);
        check("/a", &bind("/sys/fs/cgroup/cpu"), false);
        check("/a", r#"{"destination": "/x", "type": "cgroup", "source": "cgroup"}"#, false);
    }
}
