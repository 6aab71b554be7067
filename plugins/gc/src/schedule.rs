//! Collections that nobody asks for, and the audit after a start.

use std::path::PathBuf;
use std::time::Duration;

use capstan_sdk::contract::Events;
use capstan_sdk::contract::events::{Filter, Read, Watch};
use capstan_sdk::contract::gc::Collect;
use capstan_sdk::{Error, Link, Result, blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::Config;
use crate::plugin::LocalGc;

/// The first audit waits until the daemon has come up.
const BREATH: Duration = Duration::from_secs(5);

/// How often it is looked how much space is free; and how long it is not, at most, while collections give nothing back.
const LOOK: Duration = Duration::from_secs(10);
const LONGEST_LOOK: Duration = Duration::from_secs(640);

/// How long it waits for an event log that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What a removal is called in the event log.
const REMOVALS: [&str; 3] = ["/images/delete", "/containers/delete", "/leases/delete"];

/// Events that are read at once.
const BATCH: usize = 1000;

/// Runs for as long as the plugin does.
pub(crate) async fn run(gc: LocalGc, config: Config, events: Link<Events>) {
    let audit = async {
        if config.audit_at_start {
            sleep(BREATH).await;
            audit(&gc).await;
        }
    };
    let collections = async {
        futures::join!(
            by_clock(&gc, config.interval_seconds),
            by_removals(&gc, config.after_removals, events),
            by_space(&gc, config.below_free_percent),
        )
    };
    futures::join!(audit, collections);
}

/// Collects; answers how many bytes that gave back.
async fn collect(gc: &LocalGc, reason: &str) -> u64 {
    match gc.collect(Collect { namespace: None, is_dry: false }).await {
        Ok(report) => report.freed,
        Err(error) => {
            warn!(reason, %error, "garbage was not collected");
            0
        }
    }
}

async fn by_clock(gc: &LocalGc, seconds: u64) {
    if seconds == 0 {
        return;
    }
    loop {
        sleep(Duration::from_secs(seconds)).await;
        collect(gc, "its time has come").await;
    }
}

async fn by_removals(gc: &LocalGc, after: u64, events: Link<Events>) {
    if after == 0 {
        return;
    }
    let mut count = 0;
    let mut cursor = None;
    loop {
        match wait_for_removals(&events, &mut cursor, &mut count, after).await {
            Ok(()) => {
                count = 0;
                collect(gc, "enough was removed").await;
            }
            Err(error) => {
                info!(%error, "the event log cannot be read; it is tried again");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Reads the log on until it tells of so many removals. `cursor` and `count` stay right when it fails.
async fn wait_for_removals(
    events: &Link<Events>,
    cursor: &mut Option<u64>,
    count: &mut u64,
    after: u64,
) -> Result<()> {
    let mut newest = events.send(Watch).await?;
    // What was removed before the first look is not counted.
    let first = *newest.borrow_and_update();
    let cursor = cursor.get_or_insert(first);
    let topics = REMOVALS.map(str::to_owned).to_vec();
    let filter = Filter::new(None, topics)?;
    loop {
        loop {
            let read = Read { after: *cursor, limit: BATCH, filter: filter.clone() };
            let batch = events.send(read).await?;
            *count += batch.events.len() as u64;
            let is_end = batch.cursor == *cursor;
            *cursor = batch.cursor;
            if *count >= after {
                return Ok(());
            }
            if is_end {
                break;
            }
        }
        let gone = || Error::unavailable("the event log has ended");
        newest.changed().await.map_err(|_| gone())?;
    }
}

async fn by_space(gc: &LocalGc, percent: u64) {
    if percent == 0 {
        return;
    }
    let mut pause = LOOK;
    loop {
        sleep(pause).await;
        let is_short = match free_percent(gc).await {
            Ok(free) => free < percent,
            Err(error) => {
                warn!(%error, "it is not known how much space is free");
                false
            }
        };
        let freed = if is_short { collect(gc, "space is short").await } else { 0 };
        // What gives nothing back now will not in ten seconds either.
        pause = if is_short && freed == 0 { (pause * 2).min(LONGEST_LOOK) } else { LOOK };
    }
}

/// How much of the file system of the root directory is free for everybody, rounded down.
async fn free_percent(gc: &LocalGc) -> Result<u64> {
    let root: PathBuf = gc.owners().daemon()?.root;
    blocking::run("look how much space is free", move || {
        let place = || format!("look at the file system of {}", root.display());
        let found = rustix::fs::statvfs(&root).map_err(|error| Error::io(place(), error))?;
        Ok(found.f_bavail.saturating_mul(100) / found.f_blocks.max(1))
    })
    .await
}

async fn audit(gc: &LocalGc) {
    match gc.audit(false).await {
        Ok(findings) if findings.is_empty() => {}
        Ok(findings) => warn!(
            findings = findings.len(),
            first = findings[0].what,
            "what is stored is not as it should be; see `capstan system audit`, mend it by `capstan system heal`"
        ),
        Err(error) => warn!(%error, "what is stored could not be audited"),
    }
}
