//! The container's cgroups: which processes are in them, and an end to all of those.
//!
//! Invariant: nothing is ever killed in a cgroup that is the root of its hierarchy, or that the shim
//! itself is in or below. A mistake there would end the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_schema::{Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long the processes of a container may take to freeze.
const FREEZING: Duration = Duration::from_secs(10);

/// Cgroups of `/proc/<pid>/cgroup` as `(controllers, path)`; empty controllers are the unified hierarchy.
fn memberships(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((controllers.to_owned(), path.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Where hierarchies are mounted, as `(controllers, mount point, root of the mount)`.
fn hierarchies(mountinfo: &str) -> Vec<(Vec<String>, PathBuf, String)> {
    let line = |line: &str| {
        let (before, behind) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, place) = (before.next()?, before.next()?);
        let mut behind = behind.split(' ');
        let kind = behind.next()?;
        let options = behind.nth(1).unwrap_or_default();
        let controllers = match kind {
            "cgroup2" => vec![String::new()],
            "cgroup" => options.split(',').map(str::to_owned).collect(),
            _ => return None,
        };
        Some((controllers, PathBuf::from(place), root.to_owned()))
    };
    mountinfo.lines().filter_map(line).collect()
}

/// Whether `path` is the root, or `own` is it or below it.
fn is_ours(path: &str, own: &str) -> bool {
    let path = path.trim_end_matches('/');
    path.is_empty()
        || path.split('/').any(|part| part == "..")
        || own == path
        || own.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

/// The directories of the cgroups that a process is in, without those that are not its container's alone.
pub(crate) fn of(pid: u32) -> Result<Vec<String>> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))
    };
    let theirs = memberships(&read(&format!("/proc/{pid}/cgroup"))?);
    let ours = memberships(&read("/proc/self/cgroup")?);
    Ok(directories(&theirs, &ours, &hierarchies(&read("/proc/self/mountinfo")?)))
}

fn directories(
    theirs: &[(String, String)],
    ours: &[(String, String)],
    hierarchies: &[(Vec<String>, PathBuf, String)],
) -> Vec<String> {
    let mut found = Vec::new();
    for (controllers, path) in theirs {
        let own = ours.iter().find(|(name, _)| name == controllers).map_or("/", |(_, path)| path);
        if is_ours(path, own) {
            continue;
        }
        let first = controllers.split(',').next().unwrap_or_default();
        let place = hierarchies.iter().find(|(names, _, _)| names.iter().any(|n| n == first));
        if let Some((_, place, root)) = place {
            // A mount may show only a part of the hierarchy.
            let below = match root.as_str() {
                "/" => path.as_str(),
                root => match path.strip_prefix(root) {
                    Some(below) => below,
                    None => continue,
                },
            };
            let dir = place.join(below.trim_start_matches('/')).to_string_lossy().into_owned();
            if !found.contains(&dir) {
                found.push(dir);
            }
        }
    }
    found
}

/// Refuses to touch a container's cgroups if one of them is the root of a hierarchy, or the shim is in
/// it or below it: whatever is done to all processes there would be done to others.
///
/// # Errors
/// `FailedPrecondition`.
pub(crate) fn guard(dirs: &[String]) -> Result<()> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))
    };
    let ours = memberships(&read("/proc/self/cgroup")?);
    check(dirs, &ours, &hierarchies(&read("/proc/self/mountinfo")?))
}

fn check(
    dirs: &[String],
    ours: &[(String, String)],
    hierarchies: &[(Vec<String>, PathBuf, String)],
) -> Result<()> {
    for dir in dirs {
        let place = hierarchies.iter().filter(|(_, place, _)| Path::new(dir).starts_with(place));
        let Some((names, place, root)) = place.max_by_key(|(_, place, _)| place.as_os_str().len())
        else {
            return Err(Error::precondition(format!("cgroup {dir} is in no cgroup hierarchy")));
        };
        let below = Path::new(dir).strip_prefix(place).unwrap_or(Path::new(""));
        let path = Path::new(root).join(below).to_string_lossy().into_owned();
        let own = ours.iter().find(|(controllers, _)| {
            controllers.split(',').any(|name| names.iter().any(|known| known == name))
        });
        if is_ours(&path, own.map_or("/", |(_, path)| path)) {
            return Err(Error::precondition(format!(
                "cgroup {dir} of the container is the root, or holds its shim: nothing is done to all \
                 that is in it"
            )));
        }
    }
    Ok(())
}

/// All processes in a cgroup and in those below it.
fn members(dir: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(procs.lines().filter_map(|line| line.trim().parse::<u32>().ok()));
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found.retain(|&pid| pid != 0);
    found.sort_unstable();
    found.dedup();
    found
}

/// All processes of the container. Any of its cgroups knows them; the first that exists is asked.
pub(crate) fn processes(dirs: &[String]) -> Vec<u32> {
    dirs.iter().map(Path::new).find(|dir| dir.is_dir()).map(members).unwrap_or_default()
}

/// Sends a signal to every process of the container. Each is held by a descriptor between the look
/// and the signal, so that a number that was used again is not hit.
pub(crate) fn signal_all(dirs: &[String], signal: Signal) {
    if signal == Signal::KILL {
        // One write, and nothing can fork away from it.
        for dir in dirs {
            let _ = fs::write(Path::new(dir).join("cgroup.kill"), "1");
        }
    }
    let held: Vec<_> =
        processes(dirs).into_iter().filter_map(|pid| Some((pid, hold(pid)?))).collect();
    let still = processes(dirs);
    for (pid, process) in held {
        if still.binary_search(&pid).is_ok() {
            let _ = pidfd_send_signal(&process, signal);
        }
    }
}

/// The file that freezes the container, and whether it is that of cgroups v1.
fn freezer(dirs: &[String]) -> Option<(PathBuf, bool)> {
    let files = |name: &'static str| dirs.iter().map(move |dir| Path::new(dir).join(name));
    let first = files("freezer.state").find(|file| file.exists()).map(|file| (file, true));
    first.or_else(|| files("cgroup.freeze").find(|file| file.exists()).map(|file| (file, false)))
}

/// Freezes all processes of the container, and waits until they are frozen.
///
/// # Errors
/// `FailedPrecondition`: it has no cgroup that can do that. `Unavailable`: a process cannot be frozen
/// now.
pub(crate) async fn freeze(dirs: &[String]) -> Result<()> {
    let (file, is_v1) = freezer(dirs).ok_or_else(|| {
        Error::precondition("the container has no cgroup of its own that can freeze it")
    })?;
    let fail = |error| Error::io(format!("freeze {}", file.display()), error);
    let deadline = tokio::time::Instant::now() + FREEZING;
    loop {
        // Written again and again: v1 gives up where a process forks at the wrong moment.
        fs::write(&file, if is_v1 { "FROZEN" } else { "1" }).map_err(fail)?;
        let state = match is_v1 {
            true => fs::read_to_string(&file),
            false => fs::read_to_string(file.with_file_name("cgroup.events")),
        };
        if state.map_err(fail)?.lines().any(|line| matches!(line, "FROZEN" | "frozen 1")) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Error::unavailable(format!(
                "a process of the container did not freeze within {FREEZING:?}; try again"
            )));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Lets all processes of the container go on. It fails only where there is nothing to thaw.
pub(crate) fn thaw(dirs: &[String]) {
    if let Some((file, is_v1)) = freezer(dirs) {
        let _ = fs::write(file, if is_v1 { "THAWED" } else { "0" });
    }
}

fn hold(pid: u32) -> Option<std::os::fd::OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_what_we_are_in_are_never_touched() {
        for (path, own, want) in [
            ("/", "/", true),
            ("", "/", true),
            ("//", "/x", true),
            ("/a", "/", false),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            ("/../a", "/x", true),
            ("/a/../..", "/x", true),
        ] {
            assert_eq!(is_ours(path, own), want, "{path} for {own}");
        }
    }

    #[test]
    fn what_is_not_the_containers_alone_is_refused() {
        let mounts = hierarchies(
            "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             34 25 0:30 /part /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        let ours = memberships("5:cpu,cpuacct:/a/b\n4:memory:/part/own\n0::/\n");
        for (dir, is_refused) in [
            ("/sys/fs/cgroup/cpu/c/web", false),
            ("/sys/fs/cgroup/cpu/a/other", false),
            ("/sys/fs/cgroup/unified/c", false),
            ("/sys/fs/cgroup/memory/c", false),
            ("/sys/fs/cgroup/cpu", true),
            ("/sys/fs/cgroup/cpu/", true),
            ("/sys/fs/cgroup/cpu/a", true),
            ("/sys/fs/cgroup/cpu/a/b", true),
            ("/sys/fs/cgroup/cpu/a/../..", true),
            ("/sys/fs/cgroup/unified", true),
            ("/sys/fs/cgroup/memory", true),
            ("/sys/fs/cgroup/memory/own", true),
            ("/somewhere/else", true),
        ] {
            let outcome = check(&[dir.to_owned()], &ours, &mounts);
            assert_eq!(outcome.is_err(), is_refused, "{dir}");
            if let Err(error) = outcome {
                assert_eq!(error.class(), capstan_schema::Class::FailedPrecondition, "{dir}");
            }
        }
        assert!(check(&[], &ours, &mounts).is_ok());
    }

    #[test]
    fn directories_are_found_on_every_layout() {
        let mounts = hierarchies(
            "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             34 25 0:30 /part /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             22 1 8:1 / / rw - ext4 /dev/vda rw\n",
        );
        let theirs = memberships(
            "5:cpu:/c/web\n4:memory:/part/c/web\n3:name=systemd:/c/web\n2:pids:/c/web\n1:blkio:/\n0::/\n",
        );
        let ours = memberships("5:cpu:/\n4:memory:/part\n3:name=systemd:/\n0::/\n");
        let want = [
            "/sys/fs/cgroup/cpu/c/web",
            "/sys/fs/cgroup/memory/c/web",
            "/sys/fs/cgroup/systemd/c/web",
        ];
        assert_eq!(directories(&theirs, &ours, &mounts), want);

        let unified = hierarchies("33 25 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let dirs = directories(&memberships("0::/c/web\n"), &memberships("0::/d\n"), &unified);
        assert_eq!(dirs, ["/sys/fs/cgroup/c/web"]);
        assert!(directories(&memberships("0::/\n"), &memberships("0::/d\n"), &unified).is_empty());
    }
}
