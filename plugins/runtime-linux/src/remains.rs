//! What is left of a container whose shim is gone, and its end.
//!
//! A shim that is killed leaves its container's processes, what the runtime knows of it, its cgroups, and, if
//! it died in the middle of a step, a runtime that is still at work. All of that is found by what cannot be
//! another's: a working directory that is the task's, a process's number together with its start, and the
//! cgroup that the spec names. Every process is held by a descriptor before it is signalled.
//!
//! Invariant: nothing is ever killed in a cgroup that is the root of its hierarchy, or that the daemon
//! itself is in or below (`cgroup/guard.rs`).

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::time::{Duration, Instant};

use capstan_sdk::contract::runtime::TaskKey;
use capstan_sdk::{Error, Result, blocking};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::warn;

use crate::cgroup::Guard;
use crate::record::TaskRecord;
use crate::shim::PATIENT;

/// How long what was killed may take to be gone, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// Ends what is left of a container, in every step of its life. That there is nothing is fine.
///
/// # Errors
/// Something would not end within 10 s: what and where.
pub(crate) async fn end(dir: &Path, key: &TaskKey) -> Result<()> {
    let (record, cgroups) = {
        let dir = dir.to_owned();
        blocking::run("end what is left of a task", move || {
            end_workers(&dir)?;
            let record = TaskRecord::read(&dir)?;
            if let Some(created) = &record.created {
                signal(created.pid, || is_alive(created.pid, created.start_ticks));
            }
            let cgroups = cgroups(&dir, &record)?;
            cgroups.iter().try_for_each(|cgroup| end_members(cgroup))?;
            Ok((record, cgroups))
        })
        .await?
    };
    if let Some((runtime, root, is_systemd_cgroup)) = record.runtime() {
        let mut command = tokio::process::Command::new(runtime);
        command.args(["--root", root]);
        if is_systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
            .args(["delete", "--force", key.id.as_str()])
            .stdin(ProcessStdio::null())
            .stdout(ProcessStdio::null())
            .stderr(ProcessStdio::null())
            .kill_on_drop(true);
        match tokio::time::timeout(PATIENT, command.status()).await {
            Ok(Ok(status)) if status.success() => {}
            outcome => warn!(task = %key, ?outcome, "its runtime could not delete it"),
        }
    }
    blocking::run("remove the cgroups of a task", move || {
        cgroups.iter().try_for_each(|cgroup| remove(cgroup))
    })
    .await
}

/// Ends processes that work in a task's directory: its shim, and a runtime that this was waiting for.
fn end_workers(dir: &Path) -> Result<()> {
    let Ok(place) = fs::metadata(dir) else { return Ok(()) };
    let is_here = |pid: u32| {
        fs::metadata(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (place.dev(), place.ino()))
    };
    until_none(&format!("processes in {}", dir.display()), || {
        let mut all = processes();
        all.retain(|&pid| is_here(pid));
        for &pid in &all {
            signal(pid, || is_here(pid));
        }
        all.is_empty()
    })
}

/// Ends all processes of a cgroup, frozen ones too.
fn end_members(cgroup: &Path) -> Result<()> {
    until_none(&format!("processes in {}", cgroup.display()), || {
        let all = members(cgroup);
        if all.is_empty() {
            return true;
        }
        for (file, text) in
            [("cgroup.kill", "1"), ("freezer.state", "THAWED"), ("cgroup.freeze", "0")]
        {
            // Which of these there are depends on the version and the controller.
            if cgroup.join(file).exists() {
                let _ = fs::write(cgroup.join(file), text);
            }
        }
        for pid in all {
            signal(pid, || members(cgroup).contains(&pid));
        }
        false
    })
}

/// Removes a cgroup with those below it.
fn remove(cgroup: &Path) -> Result<()> {
    until_none(&cgroup.display().to_string(), || {
        for below in tree(cgroup).iter().rev() {
            // One is busy for a moment after the last process in it has ended.
            let _ = fs::remove_dir(below);
        }
        !cgroup.exists()
    })
}

fn until_none(what: &str, mut is_none: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_none() {
        if Instant::now() > deadline {
            return Err(Error::unavailable(format!("{what} are not gone after {PATIENCE:?}")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// SIGKILL, if the process is still the one that is meant once it is held.
fn signal(pid: u32, is_it: impl FnOnce() -> bool) {
    let held: Option<OwnedFd> = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(held) = held
        && pid != std::process::id()
        && is_it()
    {
        // It may end by itself just now.
        let _ = pidfd_send_signal(&held, Signal::KILL);
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the process that started then is there, and has not ended.
pub(crate) fn is_alive(pid: u32, ticks: u64) -> bool {
    ticks > 0 && start_ticks(pid) == ticks
}

/// Field 22 of `/proc/<pid>/stat`; 0 if there is no such process, or it has ended.
fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    if behind.trim_start().starts_with(['Z', 'X']) {
        return 0;
    }
    behind.split_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// A cgroup and all below it, from the outside in.
fn tree(cgroup: &Path) -> Vec<PathBuf> {
    let mut all = vec![cgroup.to_owned()];
    let mut index = 0;
    while let Some(dir) = all.get(index) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below: Vec<PathBuf> = dirs.map(|entry| entry.path()).collect();
        all.extend(below);
        index += 1;
    }
    all
}

fn members(cgroup: &Path) -> Vec<u32> {
    let read = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let text: String = tree(cgroup).iter().map(read).collect();
    // 0 is a process of another pid namespace, whose number we cannot know.
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid != 0).collect()
}

/// The container's cgroups: those that its shim wrote down, or those that its spec names.
fn cgroups(dir: &Path, record: &TaskRecord) -> Result<Vec<PathBuf>> {
    let guard = Guard::read()?;
    let spec: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap_or_default())
            .unwrap_or_default();
    let named = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    let noted = record.created.iter().flat_map(|created| guard.allowed(&created.cgroups));
    let mut all: Vec<PathBuf> = guard.places(Path::new(named)).into_iter().chain(noted).collect();
    all.retain(|dir| dir.is_dir());
    all.sort();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_works_in_the_directory_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut inside = std::process::Command::new("sleep");
        let mut inside = inside.arg("1000").current_dir(dir.path()).spawn().unwrap();
        let mut outside = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        // Ours to be waited for: until then it is there, but works nowhere.
        end_workers(dir.path()).unwrap();
        assert!(!inside.wait().unwrap().success());
        assert!(outside.try_wait().unwrap().is_none(), "it works elsewhere");
        outside.kill().unwrap();
        outside.wait().unwrap();
        end_workers(&dir.path().join("none")).unwrap();
    }
}
