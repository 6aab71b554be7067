//! Cgroups of containers, seen from the daemon: limits, numbers, want of memory. No shim is asked, so one that
//! hangs delays nothing.
//!
//! A controller is where its files are. With version 1 each hierarchy has a directory of its own for the
//! container, with version 2 there is one for all; what is looked for is the directory that has a file, and
//! so every layout, mixed ones too, is the same to the code here.
//!
//! Invariant: no file is written in a cgroup that is the root of its hierarchy, or that the daemon itself is
//! in or below (`guard.rs`).

mod file;
mod guard;
mod limit;
mod measure;
mod memory;
mod oom;
mod plan;

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::contract::resources::Resources;
use capstan_sdk::{Error, Result, blocking};
use tokio::sync::Mutex;

pub(crate) use guard::{Guard, parents_in_spec};
pub(crate) use oom::{Hub, follow, look, note_told, tell};

use crate::record::TaskRecord;
use crate::task::Task;

/// The cgroups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Those of a record that may be touched.
    fn guarded(dirs: &[String]) -> Result<Self> {
        if dirs.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { dirs: Guard::read()?.allowed(dirs) })
    }

    /// The directory that has a file: that of the controller which makes it.
    fn with(&self, file: &str) -> Option<&Path> {
        self.dirs.iter().find(|dir| dir.join(file).exists()).map(PathBuf::as_path)
    }
}

/// What a task keeps of its cgroups.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    group: OnceCell<Arc<Group>>,
    /// Two updates at once would each undo what the other did.
    updating: Mutex<()>,
    /// How many of its processes were killed for want of memory, as far as we have looked,
    seen: Cell<u64>,
    /// and as far as it was told.
    told: Cell<u64>,
    /// Somebody waits for more of that.
    is_followed: Cell<bool>,
}

impl Kept {
    /// Of the task in this directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let told = oom::told(dir);
        Self { seen: Cell::new(told), told: Cell::new(told), ..Self::default() }
    }

    /// Whether the kernel killed any of its processes for want of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        self.seen.get() > 0
    }
}

/// The cgroups of a task: from its record, once that has them.
async fn group(task: &Task) -> Result<Arc<Group>> {
    if let Some(group) = task.cgroup.group.get() {
        return Ok(Arc::clone(group));
    }
    let dir = task.dir.clone();
    let found = blocking::run("find a container's cgroups", move || {
        let created = TaskRecord::read(&dir)?.created;
        created.map(|created| Group::guarded(&created.cgroups)).transpose()
    });
    // One that is not made yet has none, and may have some later.
    let Some(group) = found.await? else { return Ok(Arc::default()) };
    Ok(Arc::clone(task.cgroup.group.get_or_init(|| Arc::new(group))))
}

/// Changes limits, all or none.
///
/// # Errors
/// As [`capstan_sdk::contract::runtime::Update`] says.
pub(crate) async fn update(task: &Task, resources: Resources) -> Result<()> {
    let _turn = task.cgroup.updating.lock().await;
    if task.exit().is_some() {
        return Err(Error::precondition(format!(
            "container {} has ended: it has no limits to change",
            task.key.id
        )));
    }
    let group = group(task).await?;
    if group.dirs.is_empty() {
        return Err(Error::precondition(format!(
            "container {} has no cgroups of its own: its limits cannot be changed",
            task.key.id
        )));
    }
    blocking::run("change limits", move || limit::update(&group, &resources)).await
}

/// What the cgroups say, now. Nothing where they are gone.
///
/// # Errors
/// A file that is there cannot be read.
pub(crate) async fn measure(task: &Task) -> Result<Vec<Sample>> {
    let (group, key) = (group(task).await?, task.key.clone());
    blocking::run("measure a container", move || measure::all(&group, &key)).await
}

/// What an update changes, for an event: by the names of the schema.
pub(crate) fn changes(resources: &Resources) -> Vec<(&'static str, String)> {
    let numbers = [
        ("memoryBytes", resources.memory_bytes),
        ("memorySwapBytes", resources.memory_swap_bytes),
        ("memoryReservationBytes", resources.memory_reservation_bytes),
        ("cpuShares", resources.cpu_shares),
        ("cpuQuotaMicros", resources.cpu_quota_micros),
        ("cpuPeriodMicros", resources.cpu_period_micros),
        ("pidsLimit", resources.pids_limit),
        ("blkioWeight", resources.blkio_weight.into()),
    ];
    let lists = [("cpusetCpus", &resources.cpuset_cpus), ("cpusetMems", &resources.cpuset_mems)];
    let numbers = numbers.into_iter().filter(|(_, value)| *value > 0);
    let lists = lists.into_iter().filter(|(_, value)| !value.is_empty());
    numbers
        .map(|(name, value)| (name, value.to_string()))
        .chain(lists.map(|(name, value)| (name, value.clone())))
        .chain(
            resources
                .hugetlb
                .iter()
                .map(|limit| ("hugetlb", format!("{} {}", limit.page_size, limit.bytes))),
        )
        .chain(resources.throttles.iter().map(|throttle| ("throttle", throttle.device.clone())))
        .collect()
}
