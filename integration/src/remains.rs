//! What is left on a machine: processes, mounts and cgroups of one host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use rustix::process::{Pid, Signal, kill_process};

/// Where the cgroup hierarchies are.
const HIERARCHIES: &str = "/sys/fs/cgroup";

/// Processes, mounts and cgroups that belong to one host, other than its daemon and its disk.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Processes that work in the host's directory (shims), or are in its cgroups (containers).
    pub processes: Vec<(u32, String)>,
    /// Mounts inside the host's directory.
    pub mounts: Vec<PathBuf>,
    /// Cgroups of the host's containers.
    pub cgroups: Vec<PathBuf>,
}

impl Remains {
    /// Looks for them.
    pub fn of(dir: &Path, cgroup: &str) -> Self {
        let mut found = Self::default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        for line in mounts.lines() {
            let point = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if point.starts_with(dir) && point != dir {
                found.mounts.push(point.to_owned());
            }
        }
        let name = cgroup.trim_start_matches('/');
        for hierarchy in fs::read_dir(HIERARCHIES).into_iter().flatten().flatten() {
            find_cgroups(&hierarchy.path(), name, 3, &mut found.cgroups);
        }
        for entry in fs::read_dir("/proc").expect("read /proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let is_here =
                fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(dir));
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let is_contained = groups.lines().any(|line| line.split('/').any(|part| part == name));
            if is_here || is_contained {
                let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.processes.push((pid, command.replace('\0', " ")));
            }
        }
        found
    }

    /// Whether there is nothing. A cgroup that only holds others may stay until the daemon ends.
    pub fn is_empty(&self) -> bool {
        let is_leaf = |dir: &PathBuf| self.cgroups.iter().any(|top| dir.parent() == Some(top));
        let containers = self.cgroups.iter().filter(|dir| is_leaf(dir)).filter(|dir| {
            // `<parent>/<namespace>/<id>`: the container's own is the third.
            self.cgroups.iter().any(|top| dir.parent().and_then(Path::parent) == Some(top))
        });
        self.processes.is_empty() && self.mounts.is_empty() && containers.count() == 0
    }

    /// Ends it all. Nothing here is an ancestor of ours: cgroups are found by the host's own name.
    pub fn end(&self) {
        for &(pid, _) in &self.processes {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // It may have ended meanwhile.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_alive = |pid: u32| Path::new("/proc").join(pid.to_string()).join("cwd").exists();
        while self.processes.iter().any(|&(pid, _)| is_alive(pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for mount in self.mounts.iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
        for cgroup in self.cgroups.iter().rev() {
            // One is busy for a while after the last process in it has ended.
            while fs::remove_dir(cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Cgroups called `name`, at most `depth` levels down, with all below them, from the outside in.
fn find_cgroups(dir: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if entry.file_name() == name {
            add_all(&path, found);
        } else if depth > 0 {
            find_cgroups(&path, name, depth - 1, found);
        }
    }
}

fn add_all(dir: &Path, found: &mut Vec<PathBuf>) {
    found.push(dir.to_owned());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_all(&entry.path(), found);
        }
    }
}
