//! What is done with a task that is there: pausing it, measuring it, reading its log.

use std::time::{Duration, Instant};

use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::contract::runtime::{LogPiece, ReadLog, Status, TaskKey};
use capstan_sdk::{Error, Result, blocking};
use tracing::warn;

use crate::plugin::Shared;
use crate::record::TaskRecord;
use crate::shim::{PROMPT, State};
use crate::task::Task;
use crate::{cgroup, logs};

/// How long a shim may take to say what its log did not take. One that hangs is left out.
const SCRAPE: Duration = Duration::from_millis(500);

/// How often a shim is asked whether something is over that an earlier daemon asked for.
const STATE_LOOK: Duration = Duration::from_millis(50);

/// How often a log is looked at for somebody who follows it.
const LOG_LOOK: Duration = Duration::from_millis(50);

/// The error for what a task cannot do in the state that it is in.
pub(crate) fn not_in_state(key: &TaskKey, what: &str, status: Status) -> Error {
    Error::precondition(format!("container {} {what}: it is {}", key.id, status.name()))
}

/// What a shim says when something is over that an earlier daemon asked for. `None`: it does not say.
pub(crate) async fn state_behind(
    task: &Task,
    is_under_way: impl Fn(&State) -> bool,
) -> Option<State> {
    loop {
        match task.shim().ok()?.state(PROMPT).await {
            Ok(state) if is_under_way(&state) => tokio::time::sleep(STATE_LOOK).await,
            Ok(state) => return Some(state),
            Err(error) => {
                warn!(task = %task.key, %error, "it is not known what became of a call to its shim");
                return None;
            }
        }
    }
}

impl Shared {
    pub(crate) async fn pause(&self, key: &TaskKey) -> Result<()> {
        let task = self.find(key)?;
        let _step = task.step.lock().await;
        let before = task.info().status;
        if before != Status::Running {
            return Err(not_in_state(key, "does not run", before));
        }
        task.set_status(Status::Pausing);
        let paused = task.shim()?.pause().await;
        task.set_status(if paused.is_ok() { Status::Paused } else { Status::Running });
        paused?;
        self.publisher.tell(key, "/tasks/paused", &[]);
        Ok(())
    }

    /// Waits for the end of a pause that an earlier daemon asked for.
    pub(crate) async fn see_pause(&self, task: &Task) {
        let _step = task.step.lock().await;
        let state = state_behind(task, |state| state.status == Status::Pausing).await;
        if let Some(state) = state {
            task.set_status(state.status);
        }
    }

    pub(crate) async fn resume(&self, key: &TaskKey) -> Result<()> {
        let task = self.find(key)?;
        let _step = task.step.lock().await;
        let before = task.info().status;
        if before != Status::Paused {
            return Err(not_in_state(key, "is not paused", before));
        }
        task.shim()?.resume().await?;
        task.set_status(Status::Running);
        self.publisher.tell(key, "/tasks/resumed", &[]);
        Ok(())
    }

    /// What its cgroups say, and what its log did not take.
    pub(crate) async fn measure(&self, key: &TaskKey) -> Result<Vec<Sample>> {
        let task = self.find(key)?;
        let mut samples = cgroup::measure(&task).await?;
        if !task.info().stdio.log.is_empty()
            && let Ok(shim) = task.shim()
            && let Ok(dropped) = shim.dropped_log_bytes(SCRAPE).await
        {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 bytes")]
            let dropped = dropped as f64;
            let help = "output that the log did not take";
            let sample = Sample::counter("container_log_dropped_bytes_total", help, dropped);
            samples.push(sample.with("id", &key.id).with("namespace", &key.namespace));
        }
        Ok(samples)
    }

    pub(crate) async fn read_log(&self, read: ReadLog) -> Result<LogPiece> {
        let task = self.find(&read.key)?;
        let dir = task.dir.clone();
        let record = blocking::run("read a task's record", move || TaskRecord::read(&dir)).await?;
        let created = record.created.unwrap_or_default();
        let path = created.stdio.log;
        if path.is_empty() {
            return Err(Error::precondition(format!(
                "the task of container {} keeps no log; run it with -d or --log-file",
                read.key.id
            )));
        }
        let deadline = Instant::now() + Duration::from_millis(read.wait_millis.into());
        loop {
            // Asked before: what the shim wrote until the end is in the file then.
            let has_ended = task.exit().is_some();
            let (path, cursor) = (path.clone(), read.cursor.clone());
            let piece = blocking::run("read a log", move || {
                logs::read(&path, created.is_log_raw, &cursor, read.tail)
            });
            let piece = piece.await?;
            if !piece.data.is_empty() || piece.is_missed || Instant::now() >= deadline {
                return Ok(piece);
            }
            if has_ended {
                return Ok(LogPiece { is_end: true, ..piece });
            }
            tokio::time::sleep(LOG_LOOK).await;
        }
    }
}
