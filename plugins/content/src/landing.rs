//! The way of verified files to their names. Those that are verified at the same time share what waits for the disk: one sync
//! of their bytes, one of their names, one commit of their records.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use capstan_sdk::{Digest, Error, Labels, Namespace, Result, failpoint};
use rustix::fs::{fstatfs, syncfs};
use tracing::warn;

use crate::ingest::remove_any;

/// Up to this many bytes a file waits for the sync that it shares with others. A larger one is synced by itself, beside
/// them: its bytes are most of what there is to write.
const SMALL: u64 = 1 << 20;

/// `EXT4_SUPER_MAGIC` and `XFS_SUPER_MAGIC` of linux/magic.h: here a sync of the file system is as good as one of each file,
/// and is one flush of the disk. Of others it is not known (fuse has none), or it writes much more (btrfs).
const SYNCED_AT_ONCE: [u64; 2] = [0xef53, 0x5846_5342];

/// A file whose bytes are what they should be, and what is to be recorded of it.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) namespace: Namespace,
    /// The name of its ingest.
    pub(crate) reference: String,
    /// The directory of its ingest.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// When the file had been opened, if nothing was written to it before.
    pub(crate) opened: Option<Instant>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) labels: Labels,
}

impl Verified {
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| {
            // What is on the disk is not known, and the next sync would succeed without it: nobody goes on with this.
            if let Err(error) = remove_any(&self.path) {
                let path = self.path.display();
                warn!(%path, %error, "an ingest that is not on the disk could not be removed");
            }
            Error::io(format!("sync {:?}", self.reference), error)
        })
    }
}

/// What somebody who waits is told.
enum Turn {
    /// All that wait are his to bring to their names.
    Lead,
    /// His file was brought along.
    Done(Result<()>),
}

struct Waiting {
    verified: Verified,
    is_synced: bool,
    turn: Sender<Turn>,
}

#[derive(Default)]
struct Line {
    waiting: Vec<Waiting>,
    /// Whether somebody works on those that have waited before.
    is_led: bool,
}

/// Files that wait for their names.
#[derive(Clone, Default)]
pub(crate) struct Landings(Arc<Mutex<Line>>);

impl std::fmt::Debug for Landings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Landings({} waiting)", self.line().waiting.len())
    }
}

/// Whoever works on those that wait; in the end, by an error or a panic too, one of those that came meanwhile does.
struct Lead<'l>(&'l Landings);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line();
        line.is_led = line.waiting.iter().any(|waiting| waiting.turn.send(Turn::Lead).is_ok());
    }
}

impl Landings {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a file durable, and has `name` give it its name together with those that wait at the same time. It blocks.
    ///
    /// # Errors
    /// Those of the sync: the ingest is gone then. Those of `name`.
    pub(crate) fn land(
        &self,
        verified: Verified,
        name: impl Fn(&[&Verified]) -> Vec<Result<()>>,
    ) -> Result<()> {
        let is_synced = verified.size > SMALL || verified.opened.is_none();
        if is_synced {
            verified.sync()?;
        }
        let (turn, my_turn) = channel();
        let is_led = {
            let mut line = self.line();
            line.waiting.push(Waiting { verified, is_synced, turn });
            std::mem::replace(&mut line.is_led, true)
        };
        if !is_led {
            self.lead(&name);
        }
        loop {
            match my_turn.recv() {
                Ok(Turn::Done(outcome)) => return outcome,
                Ok(Turn::Lead) => self.lead(&name),
                Err(_) => {
                    return Err(Error::internal(
                        "giving blobs their names panicked; the daemon's log has the place",
                    ));
                }
            }
        }
    }

    fn lead(&self, name: impl Fn(&[&Verified]) -> Vec<Result<()>>) {
        let lead = Lead(self);
        let all = std::mem::take(&mut self.line().waiting);
        let (named, turns): (Vec<_>, Vec<_>) = sync(all).into_iter().unzip();
        failpoint::at("ingest:synced");
        let outcomes = name(&named.iter().collect::<Vec<_>>());
        // The next can begin before these are told.
        drop(lead);
        for (turn, outcome) in turns.iter().zip(outcomes) {
            // Nobody may wait any more, if his thread has panicked.
            let _ = turn.send(Turn::Done(outcome));
        }
    }
}

/// Writes what is not yet on the disk, and answers what is then. The others were told why not.
fn sync(all: Vec<Waiting>) -> Vec<(Verified, Sender<Turn>)> {
    let is_synced = sync_at_once(all.iter().filter(|one| !one.is_synced));
    let mut on_disk = Vec::with_capacity(all.len());
    for Waiting { verified, is_synced: was_synced, turn } in all {
        match if was_synced || is_synced { Ok(()) } else { verified.sync() } {
            Ok(()) => on_disk.push((verified, turn)),
            // Nobody may wait any more, if his thread has panicked.
            Err(error) => drop(turn.send(Turn::Done(Err(error)))),
        }
    }
    on_disk
}

/// Writes several files with one sync of their file system; whether that is done. If it is not, each of them has to be asked
/// whether the reason is its own.
fn sync_at_once<'w>(files: impl Iterator<Item = &'w Waiting> + Clone) -> bool {
    if files.clone().nth(1).is_none() {
        return false;
    }
    // It is told of all that could not be written since it was opened (syncfs(2)), so since the others were.
    let eldest = files.min_by_key(|one| one.verified.opened).map(|one| &one.verified.file);
    eldest.is_some_and(|file| {
        let kind = fstatfs(file).ok().and_then(|about| u64::try_from(about.f_type).ok());
        kind.is_some_and(|magic| SYNCED_AT_ONCE.contains(&magic)) && syncfs(file).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use capstan_sdk::{Algorithm, Class};

    use super::*;

    fn verified(dir: &Path, name: &str) -> Verified {
        let path = dir.join(name);
        fs::create_dir(&path).unwrap();
        let file = File::create(path.join("data")).unwrap();
        Verified {
            namespace: Namespace::parse("a").unwrap(),
            reference: name.into(),
            path,
            file,
            opened: Some(Instant::now()),
            digest: Digest::from_hash(Algorithm::Sha256, &[0; 32]),
            size: 0,
            labels: Labels::new(),
        }
    }

    fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            thread::yield_now();
        }
    }

    fn refuse_odd(files: &[&Verified]) -> Vec<Result<()>> {
        let is_odd = |file: &&Verified| file.reference.ends_with(['1', '3', '5', '7', '9']);
        let refused = || Error::precondition("odd");
        files.iter().map(|file| if is_odd(file) { Err(refused()) } else { Ok(()) }).collect()
    }

    #[test]
    fn those_that_come_meanwhile_land_together_each_with_its_own_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let landings = Landings::default();
        let sizes = Mutex::new(Vec::new());
        let name = |files: &[&Verified]| {
            sizes.lock().unwrap().push(files.len());
            // The first goes on when all others wait.
            if files.len() == 1 {
                until(|| landings.line().waiting.len() == 9);
            }
            refuse_odd(files)
        };
        thread::scope(|scope| {
            let land = |number: usize| {
                let (landings, name) = (&landings, &name);
                let verified = verified(dir.path(), &number.to_string());
                scope.spawn(move || (number, landings.land(verified, name)))
            };
            let first = land(0);
            until(|| !sizes.lock().unwrap().is_empty());
            let others: Vec<_> = (1..10).map(land).collect();
            for one in std::iter::once(first).chain(others) {
                let (number, outcome) = one.join().unwrap();
                assert_eq!(outcome.is_err(), number % 2 == 1, "{number}: {outcome:?}");
            }
        });
        assert_eq!(*sizes.lock().unwrap(), [1, 9]);
        assert!(!landings.line().is_led);
    }

    #[test]
    fn a_panic_is_an_error_for_those_it_met_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let landings = Landings::default();
        let has_begun = AtomicBool::new(false);
        let name = |files: &[&Verified]| {
            if files.iter().any(|file| file.reference == "bad") {
                has_begun.store(true, Ordering::SeqCst);
                until(|| landings.line().waiting.len() == 3);
                panic!("as it is told to");
            }
            refuse_odd(files)
        };
        thread::scope(|scope| {
            let bad = verified(dir.path(), "bad");
            let bad = scope
                .spawn(|| catch_unwind(AssertUnwindSafe(|| landings.land(bad, name))).is_err());
            until(|| has_begun.load(Ordering::SeqCst));
            let land = |number: usize| {
                let verified = verified(dir.path(), &number.to_string());
                let (landings, name) = (&landings, &name);
                scope.spawn(move || landings.land(verified, name))
            };
            let others: Vec<_> = [2, 3, 4].map(land).into();
            assert!(bad.join().unwrap(), "it panics where it is called");
            let outcomes: Vec<_> =
                others.into_iter().map(|one| one.join().unwrap().map_err(|e| e.class())).collect();
            assert_eq!(outcomes, [Ok(()), Err(Class::FailedPrecondition), Ok(())]);
        });
    }
}
