//! Create: mounts, streams, the runtime, and the init process that waits to be started.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use capstan_schema::shim_capnp::{create_params, raw_mount};
use capstan_schema::{Error, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::cgroup;
use crate::checkpoint::{self, Parts};
use crate::failpoint;
use crate::idmap::{self, IdMapping};
use crate::process::Process;
use crate::reap::Moment;
use crate::record::Entry;
use crate::runtime::Runtime;
use crate::stdio::{Streams, Wish};
use crate::task::{Container, Freeze, Task};
use crate::terminal::{ConsoleSocket, Terminal};

/// The container's root filesystem, in the task's directory; the spec says the same.
const ROOTFS: &str = "rootfs";

/// Where the runtime writes init's number.
pub(crate) const PID_FILE: &str = "init.pid";

/// The runtime's program as it is run: bound read-only, so that a container that gets hold of it
/// through /proc/self/exe cannot change it for others (CVE-2019-5736).
const PROGRAM: &str = "runtime";

/// What a bind has of its own, but for `ro`: the kernel takes no notice of it before it is remounted.
const OF_A_BIND: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

/// What the daemon asked for, in plain values.
pub(crate) struct Wanted {
    id: String,
    program: String,
    root: String,
    is_systemd_cgroup: bool,
    mounts: Vec<RawMount>,
    stdio: Wish,
    has_terminal: bool,
    is_unified_hidden: bool,
    id_mappings: Vec<IdMapping>,
    /// Restore from this directory when it is started; empty = an ordinary container.
    checkpoint: String,
    criu: String,
}

pub(crate) struct RawMount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) flags: u64,
    pub(crate) data: String,
    pub(crate) is_read_only_bind: bool,
    pub(crate) workdir: String,
}

impl RawMount {
    fn read(reader: raw_mount::Reader<'_>) -> Result<Self> {
        Ok(Self {
            kind: reader.get_type()?.to_str()?.into(),
            source: reader.get_source()?.to_str()?.into(),
            flags: reader.get_flags(),
            data: reader.get_data()?.to_str()?.into(),
            is_read_only_bind: reader.get_read_only_bind(),
            workdir: reader.get_workdir()?.to_str()?.into(),
        })
    }

    pub(crate) fn mount(&self, home: &Path, target: &Path) -> Result<()> {
        let fail = |error: nix::Error| {
            Error::io(format!("mount {} on {}", self.source, target.display()), error)
        };
        let flags = MsFlags::from_bits_truncate(self.flags);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (kind, data) = (some(&self.kind), some(&self.data));
        let go = |dir: &Path| {
            std::env::set_current_dir(dir)
                .map_err(|error| Error::io(format!("enter {}", dir.display()), error))
        };
        if !self.workdir.is_empty() {
            go(Path::new(&self.workdir))?;
        }
        let source = Some(self.source.as_str());
        let mounted = mount(source, target, kind.as_deref(), flags, data.as_deref()).map_err(fail);
        if !self.workdir.is_empty() {
            go(home)?;
        }
        mounted?;
        let of_bind = self.of_bind();
        if flags.contains(MsFlags::MS_BIND) && !of_bind.is_empty() {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | of_bind | kept(target)?;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(fail)?;
        }
        Ok(())
    }

    /// What it forbids as a bind, or says of times.
    pub(crate) fn of_bind(&self) -> MsFlags {
        let mut flags = MsFlags::from_bits_truncate(self.flags) & OF_A_BIND;
        flags.set(MsFlags::MS_RDONLY, self.is_read_only_bind);
        flags
    }
}

/// What a mount forbids already: a remount that does not say it again would allow it.
fn kept(target: &Path) -> Result<MsFlags> {
    let fail = |error| Error::io(format!("see how {} is mounted", target.display()), error);
    let now = statvfs(target).map_err(fail)?.f_flag;
    let pairs = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    ];
    Ok(pairs.into_iter().filter(|(seen, _)| now.contains(*seen)).map(|(_, flag)| flag).collect())
}

impl Wanted {
    pub(crate) fn read(reader: create_params::Reader<'_>) -> Result<Self> {
        Ok(Self {
            id: reader.get_id()?.to_str()?.into(),
            program: reader.get_runtime()?.to_str()?.into(),
            root: reader.get_runtime_root()?.to_str()?.into(),
            is_systemd_cgroup: reader.get_systemd_cgroup(),
            mounts: reader.get_rootfs()?.iter().map(RawMount::read).collect::<Result<_>>()?,
            stdio: Wish::read(reader.get_stdio()?)?,
            has_terminal: reader.get_terminal(),
            is_unified_hidden: reader.get_hide_unified_cgroup(),
            id_mappings: reader.get_id_mappings()?.iter().map(IdMapping::read).collect(),
            checkpoint: reader.get_checkpoint()?.to_str()?.into(),
            criu: reader.get_criu()?.to_str()?.into(),
        })
    }
}

impl Task {
    /// Creates the container; answers init's number.
    ///
    /// After an error nothing of it is left, and the shim ends when the daemon lets go of it.
    pub(crate) async fn create(self: &Rc<Self>, wanted: Wanted) -> Result<u32> {
        let _step = self.step.lock().await;
        if self.container.borrow().is_some() {
            return Err(Error::already_exists("the task has a container"));
        }
        self.is_creating.set(true);
        let created = self.try_create(wanted).await;
        self.is_creating.set(false);
        created
    }

    async fn try_create(self: &Rc<Self>, wanted: Wanted) -> Result<u32> {
        let target = self.dir.join(ROOTFS);
        idmap::mount_all(&wanted.mounts, &wanted.id_mappings, &self.dir, &target)?;
        refuse_links(&target)?;
        if wanted.is_unified_hidden {
            // Ours alone, as all mounts are; that it is not there is fine.
            let _ = umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH);
        }
        let runtime = Runtime {
            program: bind_program(&self.dir, &wanted.program)?,
            root: wanted.root,
            id: wanted.id,
            is_systemd_cgroup: wanted.is_systemd_cgroup,
            criu_dir: checkpoint::directory_of(&wanted.criu),
        };
        let mut streams = Streams::make(&self.dir, "init", &wanted.stdio, wanted.has_terminal)?;
        let console = match wanted.has_terminal {
            true => Some(ConsoleSocket::listen("console.sock".into())?),
            false => None,
        };
        if !wanted.checkpoint.is_empty() {
            let program = wanted.program;
            let parts = Parts { streams, console, program, directory: wanted.checkpoint };
            return self.defer(runtime, parts);
        }
        let mut args = vec!["--bundle", ".", "--pid-file", PID_FILE];
        if let Some(console) = &console {
            args.extend(["--console-socket", console.name()]);
        }
        let ends = streams.ends.take();
        failpoint::at("create:mounted");
        self.note(Entry::Creating {
            id: &runtime.id,
            runtime: &wanted.program,
            runtime_root: &runtime.root,
            is_systemd_cgroup: runtime.is_systemd_cgroup,
        })?;
        failpoint::at("create:noted");
        let since = self.reaper.now();
        if let Err(error) = runtime.run(&self.reaper, "create", &args, ends).await {
            self.undo(&runtime).await;
            return Err(error);
        }
        failpoint::at("create:made");
        match self.adopt(&runtime, streams, console, &wanted.program, since) {
            Ok(pid) => Ok(pid),
            Err(error) => {
                self.container.replace(None);
                self.undo(&runtime).await;
                Err(error)
            }
        }
    }

    /// Takes over what the runtime has made since then.
    pub(crate) fn adopt(
        self: &Rc<Self>,
        runtime: &Runtime,
        mut streams: Streams,
        console: Option<ConsoleSocket>,
        program: &str,
        since: Moment,
    ) -> Result<u32> {
        let terminal = match (console, streams.terminal.take()) {
            (Some(console), Some(ends)) => Some(Terminal::attach(console.take()?, ends)?),
            _ => None,
        };
        let pid = read_pid(PID_FILE)?;
        let cgroups = cgroup::of(pid).unwrap_or_default();
        let paths = streams.paths.clone();
        let init = Process::new(pid, streams, terminal);
        self.note(Entry::Created {
            id: &runtime.id,
            pid,
            runtime: program,
            runtime_root: &runtime.root,
            has_terminal: init.terminal.borrow().is_some(),
            paths: &paths,
            cgroups: &cgroups,
        })?;
        failpoint::at("create:created");
        self.watch_init(&init, since);
        let freeze = Cell::new(Freeze::No);
        let container = Container { runtime: runtime.clone(), init, cgroups, freeze };
        self.container.replace(Some(Rc::new(container)));
        Ok(pid)
    }

    /// Removes what a create that failed may have left in the runtime.
    pub(crate) async fn undo(&self, runtime: &Runtime) {
        // It fails where there is nothing; then there is nothing to do.
        let _ = runtime.run(&self.reaper, "delete", &["--force"], None).await;
    }
}

/// The kernel's own filesystems are mounted in directories of these names. Where the image has a link
/// instead, a runtime may follow it, and so out of the container (runc 1.1 does, with `/dev`).
fn refuse_links(rootfs: &Path) -> Result<()> {
    for name in ["proc", "sys", "dev"] {
        if rootfs.join(name).symlink_metadata().is_ok_and(|about| about.is_symlink()) {
            return Err(Error::invalid(format!(
                "/{name} of the root filesystem is a link; it must be a directory, or not be there"
            )));
        }
    }
    Ok(())
}

/// A number that the runtime wrote.
pub(crate) fn read_pid(file: &str) -> Result<u32> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::io(format!("read what the runtime wrote to {file}"), error))?;
    match text.trim().parse::<u32>() {
        Ok(pid) if pid > 1 => Ok(pid),
        _ => Err(Error::internal(format!("the runtime wrote {text:?} as the number of a process"))),
    }
}

fn bind_program(dir: &Path, program: &str) -> Result<String> {
    let place = dir.join(PROGRAM);
    std::fs::write(&place, "").map_err(|error| Error::io("make a place for the runtime", error))?;
    let fail = |error: nix::Error| Error::io(format!("bind the runtime {program}"), error);
    let bind = MsFlags::MS_BIND;
    mount(Some(program), &place, None::<&str>, bind, None::<&str>).map_err(fail)?;
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, &place, None::<&str>, read_only, None::<&str>).map_err(fail)?;
    Ok(place.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel ignores these words in the first call for a bind; with mapped ids they are set otherwise.
    #[test]
    fn a_bind_has_the_words_that_it_was_given() {
        use StatVfsMountFlags as Seen;
        use nix::sched::{CloneFlags, unshare};
        const WORDS: [(MsFlags, Seen); 3] = [
            (MsFlags::MS_NOSUID, Seen::NOSUID),
            (MsFlags::MS_NODEV, Seen::NODEV),
            (MsFlags::MS_NOEXEC, Seen::NOEXEC),
        ];
        let all = Seen::RDONLY | Seen::NOSUID | Seen::NODEV | Seen::NOEXEC;
        let dir = tempfile::tempdir().unwrap();
        let test = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let (source, nosuid) = (dir.path().join("source"), dir.path().join("nosuid"));
            for (place, flags) in [(&source, MsFlags::empty()), (&nosuid, MsFlags::MS_NOSUID)] {
                std::fs::create_dir(place).unwrap();
                mount(Some("none"), place, Some("tmpfs"), flags, None::<&str>).unwrap();
            }
            let mapped =
                [IdMapping::of(false, 0, 100_000, 10), IdMapping::of(true, 0, 100_000, 10)];
            for number in 0..64 {
                let has = |bit: u32| number & (1 << bit) != 0;
                let from = if has(4) { &nosuid } else { &source };
                let mut flags = MsFlags::MS_BIND;
                let mut want = if has(4) { Seen::NOSUID } else { Seen::empty() };
                for (_, (flag, seen)) in (0..).zip(WORDS).filter(|(bit, _)| has(*bit)) {
                    flags |= flag;
                    want |= seen;
                }
                want.set(Seen::RDONLY, has(3));
                let bind = RawMount {
                    kind: String::new(),
                    source: from.to_string_lossy().into(),
                    flags: flags.bits(),
                    data: String::new(),
                    is_read_only_bind: has(3),
                    workdir: String::new(),
                };
                let target = dir.path().join(number.to_string());
                std::fs::create_dir(&target).unwrap();
                let mappings = if has(5) { &mapped[..] } else { &[] };
                idmap::mount_all(&[bind], mappings, dir.path(), &target).unwrap();
                assert_eq!(statvfs(&target).unwrap().f_flag & all, want, "{number:#b}");
            }
        };
        std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    }

    #[test]
    fn a_root_filesystem_with_a_link_for_the_kernels_is_refused() {
        let rootfs = tempfile::tempdir().unwrap();
        refuse_links(rootfs.path()).unwrap();
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir(rootfs.path().join(name)).unwrap();
            refuse_links(rootfs.path()).unwrap();
            std::fs::remove_dir(rootfs.path().join(name)).unwrap();
            std::os::unix::fs::symlink("/tmp", rootfs.path().join(name)).unwrap();
            let error = refuse_links(rootfs.path()).unwrap_err();
            assert!(error.to_string().contains(&format!("/{name} ")), "{error}");
            std::fs::remove_file(rootfs.path().join(name)).unwrap();
        }
    }
}
