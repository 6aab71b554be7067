//! Checkpoint and restore: who can do it, and what is refused before anything is done.
//!
//! A restore that puts processes into the wrong cgroup ends in the death of whatever else is there,
//! because a container's cgroup is killed when the container is deleted. So no container is ever made in
//! the root of the hierarchies or in a cgroup that holds the daemon, and only runc may restore: it was
//! seen to join the cgroup of the spec and to tell CRIU no other (crun 1.28 told it the root).

use std::path::Path;
use std::rc::Rc;

use capstan_sdk::contract::runtime::{Checkpoint, Create, Restore, Status, TaskInfo};
use capstan_sdk::{Error, Result};
use serde_json::Value;

use crate::failure::classify;
use crate::live::state_behind;
use crate::plugin::{Shared, field};
use crate::record::TaskRecord;
use crate::task::Task;

/// Where CRIU works during a dump, in the task's directory.
const WORK: &str = "criu-dump";

/// Whether a runtime may be trusted with CRIU: runc, under whatever name it is configured.
fn can_checkpoint(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name == "runc" || name.starts_with("runc-") || name.starts_with("runc.")
}

fn check_runtime(name: &str, program: &Path) -> Result<()> {
    if can_checkpoint(program) {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "runtime {name} cannot checkpoint and restore; of the runtimes that capstan knows only runc can: \
         make the container with --runtime runc"
    )))
}

/// The path of a cgroup without what means nothing; `None` if it climbs.
fn clean(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then_some(parts)
}

/// Whether `path` is the root, or one of `own` is in it; what climbs counts as that.
fn is_ours(path: &str, own: &[&str]) -> bool {
    let Some(path) = clean(path) else { return true };
    path.is_empty() || own.iter().any(|own| clean(own).is_some_and(|own| own.starts_with(&path)))
}

/// Refuses a spec whose cgroup is the root of the hierarchies, or holds the daemon.
///
/// # Errors
/// `FailedPrecondition`: it is such a one; or for a restore, none that is named in full.
pub(crate) fn check_cgroup(spec: &Value, is_restore: bool) -> Result<()> {
    let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own: Vec<&str> =
        memberships.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    check_cgroup_among(spec, is_restore, &own)
}

fn check_cgroup_among(spec: &Value, is_restore: bool, own: &[&str]) -> Result<()> {
    let path = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    let is_absolute = path.starts_with('/');
    if is_absolute && is_ours(path, own) {
        return Err(Error::precondition(format!(
            "cgroupsPath {path:?} is the root of the hierarchies, or the daemon is in it: the container \
             could not be ended without ending others; choose a cgroup of its own"
        )));
    }
    if is_restore && !is_absolute {
        return Err(Error::precondition(format!(
            "cgroupsPath {path:?}: a restore needs one of the container's own, written as an absolute path"
        )));
    }
    Ok(())
}

impl Shared {
    /// Waits for the end of a start that an earlier daemon asked for; a restore may take its time.
    pub(crate) async fn see_start(&self, task: &Task) {
        let _step = task.step.lock().await;
        let Some(state) = state_behind(task, |state| state.is_starting).await else { return };
        let record = TaskRecord::read(&task.dir).unwrap_or_default();
        if record.started_at_unix_ns > 0 {
            self.remember_cgroups(&record.created.unwrap_or_default().cgroups);
            task.set_running(state.pid, record.started_at_unix_ns);
            self.publisher.tell(&task.key, "/tasks/start", &[field("pid", state.pid)]);
        }
    }

    pub(crate) async fn checkpoint(self: Rc<Self>, checkpoint: Checkpoint) -> Result<()> {
        let Checkpoint { key, directory, is_exit } = checkpoint;
        let task = self.find(&key)?;
        let _step = task.step.lock().await;
        let info = task.info();
        if !matches!(info.status, Status::Running | Status::Paused) {
            return Err(Error::precondition(format!("container {} does not run", key.id)));
        }
        // A runtime that is configured no more is known by the program that the task has.
        let program = match self.config.runtime(&info.runtime) {
            Ok((program, _)) => program,
            Err(_) => info.runtime.clone().into(),
        };
        check_runtime(&info.runtime, &program)?;
        self.config.find_criu()?;
        let work = task.dir.join(WORK);
        task.shim()?
            .checkpoint(&directory, &work.to_string_lossy(), is_exit)
            .await
            .map_err(|error| classify(error, &task.command).at(format!("container {}", key.id)))?;
        self.publisher.tell(&key, "/tasks/checkpoint", &[field("exit", is_exit)]);
        Ok(())
    }

    pub(crate) async fn restore(self: Rc<Self>, restore: Restore) -> Result<TaskInfo> {
        let Restore { create, directory } = restore;
        let Create { runtime, .. } = &create;
        let name = if runtime.is_empty() { crate::config::EMBEDDED } else { runtime };
        let (program, is_systemd_cgroup) = self.config.runtime(name)?;
        check_runtime(name, &program)?;
        if is_systemd_cgroup {
            return Err(Error::precondition(format!(
                "runtime {name} makes its cgroups through systemd; a restore needs one without"
            )));
        }
        self.config.find_criu()?;
        if !Path::new(&directory).join("inventory.img").is_file() {
            return Err(Error::corrupt(format!("{directory} holds no dump of CRIU's")));
        }
        self.create(create, &directory).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use serde_json::json;

    #[test]
    fn no_container_is_made_in_a_cgroup_that_is_not_its_own() {
        let own = ["/", "/system/capstan", "/process/abc"];
        let spec = |path: &str| json!({ "linux": { "cgroupsPath": path } });
        for (path, create, restore) in [
            ("/capstan/default/web", true, true),
            ("/process/other", true, true),
            ("/system/capstan/web", true, true),
            ("/", false, false),
            ("//", false, false),
            ("/.", false, false),
            ("/./", false, false),
            ("/a/..", false, false),
            ("/../x", false, false),
            ("/system", false, false),
            ("/system/capstan/", false, false),
            ("/process//abc", false, false),
            // A runtime's own choice, below what it is in.
            ("", true, false),
            ("web", true, false),
            ("system.slice:capstan:web", true, false),
        ] {
            for (is_restore, is_good) in [(false, create), (true, restore)] {
                let outcome = check_cgroup_among(&spec(path), is_restore, &own);
                assert_eq!(outcome.is_ok(), is_good, "{path:?}, restore: {is_restore}");
                if let Err(error) = outcome {
                    assert_eq!(error.class(), Class::FailedPrecondition, "{path:?}");
                }
            }
        }
        assert!(check_cgroup_among(&json!({}), true, &own).is_err(), "a restore needs a cgroup");
        assert!(check_cgroup(&spec("/"), false).is_err(), "the root, on this machine");
    }

    #[test]
    fn only_runc_may_restore() {
        for (program, is_good) in [
            ("/usr/sbin/runc", true),
            ("/opt/runc-1.3.6", true),
            ("/usr/bin/crun", false),
            ("/usr/bin/runcible", false),
            ("/usr/lib/capstan/capstan-runtime", false),
        ] {
            let outcome = check_runtime("x", Path::new(program));
            assert_eq!(outcome.is_ok(), is_good, "{program}");
            if let Err(error) = outcome {
                assert_eq!(error.class(), Class::FailedPrecondition);
                assert!(error.message().contains("only runc can"), "{error}");
            }
        }
    }
}
