//! Limits of what an active snapshot's own data takes, by the project quotas of ext4 and xfs, for drivers whose
//! snapshots are directories.
//!
//! A snapshot with a limit has a project of its own, whose number is a configured one and the snapshot's. All that is made below its
//! directories is of that project, by inheritance, and the file system refuses what goes beyond the limit. A
//! mark, `<root>/limits/<id>`, is on disk before the limit is and goes after it, so no limit is forgotten
//! by a crash, or by another configuration: the mark has the project's number in it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use capstan_schema::{Class, Error, Result};
use tracing::warn;

use crate::contract::snapshotter::Kind;
use crate::{mount, tool, tree};

use super::ledger::Snapshot;

/// How many numbers of projects a driver may take, from its first.
const PROJECTS: u64 = 100_000_000;

/// The programs that set limits, and Debian's packages with them.
const PROGRAMS: [(&str, &str); 3] =
    [("chattr", "e2fsprogs"), ("setquota", "quota"), ("repquota", "quota")];

/// What a limit is held by, of each snapshot that has one: a number that the file system knows.
#[derive(Debug)]
pub struct Marks {
    dir: PathBuf,
    held: Mutex<HashMap<u64, u64>>,
}

impl Marks {
    /// Reads those of a driver's directory.
    ///
    /// # Errors
    /// What the system says; `Corrupt`: one has no number in it.
    pub fn open(root: &Path) -> Result<Self> {
        let dir = root.join("limits");
        let mut held = HashMap::new();
        if dir.exists() {
            for id in super::numbers(&dir)? {
                let path = dir.join(id.to_string());
                let text = fs::read_to_string(&path)
                    .map_err(|error| Error::io(format!("read {}", path.display()), error))?;
                // One that a power cut left empty is of a limit that was not set yet.
                let number = match text.trim() {
                    "" => 0,
                    text => text.parse().map_err(|_| {
                        Error::corrupt(format!(
                            "{} is no mark of a limit: remove it",
                            path.display()
                        ))
                    })?,
                };
                held.insert(id, number);
            }
        }
        Ok(Self { dir, held: Mutex::new(held) })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of what number a snapshot's limit is.
    pub fn get(&self, id: u64) -> Option<u64> {
        self.held().get(&id).copied()
    }

    /// Numbers of snapshots with those of marks, each once, in order: what `Driver::numbers` answers.
    pub fn join(&self, mut numbers: Vec<u64>) -> Vec<u64> {
        numbers.extend(self.held().keys());
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Makes one, on disk when this answers.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(&self, id: u64, number: u64) -> Result<()> {
        let path = self.dir.join(id.to_string());
        let fail = |error| Error::io(format!("write {}", path.display()), error);
        fs::create_dir_all(&self.dir).map_err(fail)?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            writeln!(file, "{number}")?;
            file.sync_all()
        };
        write().map_err(fail)?;
        tree::sync_dir(&self.dir)?;
        self.held().insert(id, number);
        Ok(())
    }

    /// Removes one; that there is none is fine.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, id: u64) -> Result<()> {
        if self.held().remove(&id).is_none() {
            return Ok(());
        }
        let path = self.dir.join(id.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }
}

/// The projects of a driver's snapshots.
#[derive(Debug)]
pub struct Projects {
    root: PathBuf,
    first: u32,
    marks: Marks,
}

impl Projects {
    /// Those of a driver whose directory is `root`. A snapshot's project has the number `first` and its own.
    ///
    /// # Errors
    /// Those of [`Marks::open`].
    pub fn open(root: &Path, first: u32) -> Result<Self> {
        Ok(Self { root: root.to_owned(), first, marks: Marks::open(root)? })
    }

    /// As [`Marks::join`].
    pub fn join(&self, numbers: Vec<u64>) -> Vec<u64> {
        self.marks.join(numbers)
    }

    /// Whether the file system keeps limits, and the programs are there that set them.
    ///
    /// # Errors
    /// `Unimplemented`: what is missing, and what to do.
    pub fn check(&self) -> Result<()> {
        let seen = mount::of(&self.root)?;
        if let Some(advice) = advice(&seen.kind, &seen.options) {
            return Err(Error::unimplemented(format!(
                "the size of a snapshot cannot be limited here: {} is on {}, {advice}",
                self.root.display(),
                seen.kind
            )));
        }
        for (program, package) in PROGRAMS {
            tool::find(program, package).map_err(|error| error.as_class(Class::Unimplemented))?;
        }
        Ok(())
    }

    /// Gives a new snapshot its limit, if it wants one. `dirs` are its own directories, still empty.
    ///
    /// # Errors
    /// `FailedPrecondition`: its project is somebody else's. `ResourceExhausted`: no numbers are left. What the
    /// programs say.
    pub fn begin(&self, snapshot: &Snapshot, dirs: &[&Path]) -> Result<()> {
        let Some(bytes) = snapshot.limit().filter(|_| snapshot.info.kind == Kind::Active) else {
            return Ok(());
        };
        let project = self.project(snapshot.id)?;
        let place = self.place()?;
        let repquota = program("repquota")?;
        // All that the file system knows of, also those of which nothing is stored.
        let words = ["-P", "-n", "-v", "-O", "csv"].map(OsStr::new);
        let report = tool::run(&repquota, words.into_iter().chain([place.as_os_str()]))?;
        if is_used(&report, project) {
            return Err(Error::precondition(format!(
                "project {project} of {} is in use by somebody else; give the plugin other numbers \
                 (`first_project` of its section)",
                place.display()
            )));
        }
        self.marks.put(snapshot.id, project)?;
        let chattr = program("chattr")?;
        let number = project.to_string();
        let words = ["-p", &number, "+P"].map(OsStr::new);
        tool::run(&chattr, words.into_iter().chain(dirs.iter().map(|dir| dir.as_os_str())))?;
        set(&place, project, bytes)
    }

    /// Changes the limit of a snapshot that was made with one. `None`: it has none from now on.
    ///
    /// # Errors
    /// `FailedPrecondition`: it was made without. What the programs say.
    pub fn change(&self, snapshot: &Snapshot, bytes: Option<u64>) -> Result<()> {
        match (self.marks.get(snapshot.id), bytes) {
            (Some(project @ 1..), bytes) => set(&self.place()?, project, bytes.unwrap_or(0)),
            (_, None) => Ok(()),
            (_, Some(_)) => Err(Error::precondition(format!(
                "snapshot {:?} was made without a limit, and what is in it would not count; make it with one",
                snapshot.info.key
            ))),
        }
    }

    /// Forgets a snapshot's limit; that it has none is fine. What lies there counts for the project until it is removed.
    ///
    /// # Errors
    /// What the programs say: it is tried again when the snapshot is swept.
    pub fn end(&self, id: u64) -> Result<()> {
        match self.marks.get(id) {
            None => return Ok(()),
            // It was not set yet.
            Some(0) => {}
            Some(project) => set(&self.place()?, project, 0)?,
        }
        self.marks.remove(id)
    }

    /// As [`Projects::end`], of a snapshot that is committed. Where it cannot be, that is for the log: nobody writes there.
    pub fn settle(&self, id: u64) {
        if let Err(error) = self.end(id) {
            warn!(snapshot = id, %error, "a committed snapshot still has a limit");
        }
    }

    fn project(&self, id: u64) -> Result<u64> {
        let project = u64::from(self.first) + id;
        if self.first == 0 || id >= PROJECTS || project > u64::from(u32::MAX) {
            return Err(Error::new(
                Class::ResourceExhausted,
                format!(
                    "snapshot {id} has no project number: they go from {} (`first_project` of the plugin's \
                     section, not 0), {PROJECTS} of them",
                    self.first
                ),
            ));
        }
        Ok(project)
    }

    /// By which name the programs know the file system: that of its device, where it has one, which has no more than one
    /// whatever is mounted where.
    fn place(&self) -> Result<PathBuf> {
        let seen = mount::of(&self.root)?;
        let device = PathBuf::from(seen.source);
        Ok(if device.is_absolute() && device.exists() { device } else { seen.target })
    }
}

/// What to do about a file system that keeps no limits of projects; `None` if it does.
fn advice(kind: &str, options: &[String]) -> Option<&'static str> {
    let is_on = options.iter().any(|option| option == "prjquota" || option == "pquota");
    match kind {
        "ext4" | "xfs" if is_on => None,
        "ext4" => Some(
            "mounted without prjquota; unmount it, run `tune2fs -O quota,project -Q prjquota DEVICE`, and mount it \
             with the option prjquota",
        ),
        "xfs" => Some("mounted without pquota; mount it anew with the option pquota"),
        _ => Some(
            "which has no project quotas; put the daemon's root on ext4 or xfs, or use the snapshotter btrfs",
        ),
    }
}

/// Whether a project holds something or has a limit, by a report of `repquota -P -n -v -O csv`: name, two states, and numbers.
fn is_used(report: &str, project: u64) -> bool {
    let name = format!("#{project}");
    let mut lines = report.lines().map(|line| line.split(','));
    let found = lines.find_map(|mut words| (words.next() == Some(&name)).then_some(words));
    found.is_some_and(|words| words.skip(2).any(|word| word.parse().is_ok_and(|n: u64| n > 0)))
}

fn program(name: &str) -> Result<PathBuf> {
    let package = PROGRAMS.iter().find(|(program, _)| *program == name);
    tool::find(name, package.map_or("", |(_, package)| package))
}

/// 0: no limit. In KiB, as the program has it, rounded up.
fn set(place: &Path, project: u64, bytes: u64) -> Result<()> {
    let setquota = program("setquota")?;
    let (project, limit) = (project.to_string(), bytes.div_ceil(1024).to_string());
    let words = ["-P", &project, "0", &limit, "0", "0"].map(OsStr::new);
    tool::run(&setquota, words.into_iter().chain([place.as_os_str()])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_keep_no_limits_are_told_apart() {
        let check = |kind: &str, options: &str, want: Option<&str>| {
            let options: Vec<String> = options.split(',').map(str::to_owned).collect();
            match (advice(kind, &options), want) {
                (None, None) => {}
                (Some(said), Some(want)) => {
                    assert!(said.contains(want), "{kind} {options:?}: {said}")
                }
                (said, _) => panic!("{kind} {options:?}: {said:?}"),
            }
        };
        check("ext4", "rw,prjquota", None);
        check("xfs", "rw,attr2,prjquota", None);
        check("ext4", "rw,quota,usrquota", Some("tune2fs"));
        check("ext4", "rw", Some("option prjquota"));
        // Counted, but not kept.
        check("xfs", "rw,pqnoenforce", Some("option pquota"));
        check("tmpfs", "rw", Some("snapshotter btrfs"));
        check("overlay", "rw,prjquota", Some("snapshotter btrfs"));
    }

    #[test]
    fn a_project_in_a_report_is_in_use() {
        let report = "Project,BlockStatus,FileStatus,BlockUsed,BlockSoftLimit,BlockHardLimit,BlockGrace,FileUsed,\
                      FileSoftLimit,FileHardLimit,FileGrace\n\
                      #0,ok,ok,1516,0,0,,7,0,0,\n\
                      #1000000012,ok,ok,0,0,0,,1,0,0,\n\
                      #1000000013,ok,ok,0,0,5000,,0,0,0,\n\
                      #1000000014,ok,ok,0,0,0,,0,0,0,\n";
        assert!(is_used(report, 1_000_000_012) && is_used(report, 1_000_000_013));
        for project in [1_000_000_014, 1_000_000_015, 100_000_001, 12] {
            assert!(!is_used(report, project), "{project}");
        }
    }

    #[test]
    fn marks_survive_and_projects_are_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path()).unwrap();
        marks.put(7, 1_000_007).unwrap();
        marks.put(8, 1_000_008).unwrap();
        marks.remove(8).unwrap();
        marks.remove(8).unwrap();
        fs::write(dir.path().join("limits/9"), "").unwrap();
        let projects = Projects::open(dir.path(), 2_000_000).unwrap();
        assert_eq!(projects.join(vec![8, 7, 1]), [1, 7, 8, 9]);
        assert_eq!(projects.marks.get(7), Some(1_000_007), "whatever the section says now");
        projects.end(9).unwrap();
        assert_eq!(Marks::open(dir.path()).unwrap().join(Vec::new()), [7]);
        assert_eq!(projects.project(5).unwrap(), 2_000_005);
        for (first, id) in [(0, 1), (1, PROJECTS), (u32::MAX, 1)] {
            let projects = Projects::open(dir.path(), first).unwrap();
            assert_eq!(projects.project(id).unwrap_err().class(), Class::ResourceExhausted);
        }
        fs::write(dir.path().join("limits/9"), "x").unwrap();
        assert_eq!(Marks::open(dir.path()).unwrap_err().class(), Class::Corrupt);
    }
}
