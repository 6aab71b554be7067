//! Mounts: from fstab words to system calls, and a way to look into a tree without leaving a mount.

use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use capstan_schema::{Error, Mount, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, open, statvfs};

/// What a bind has of its own, but for `ro`: the kernel takes no notice of it before it is remounted.
const OF_A_BIND: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME)
    .union(MsFlags::MS_STRICTATIME);

/// The kernel takes one page of mount data; some of it goes to the terminating NUL.
const DATA_BYTES: usize = 4095;

/// A mount with its words parsed: what mount(2) takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMount {
    /// File system type; empty for a bind.
    pub kind: String,
    /// A device, a directory, or a word.
    pub source: String,
    /// `MS_*`.
    pub flags: MsFlags,
    /// Everything that is no flag, joined by commas.
    pub data: String,
    /// The kernel ignores `MS_RDONLY` when a bind is made: it must be remounted.
    pub is_read_only_bind: bool,
    /// Where relative paths in `data` start; empty if there are none.
    pub workdir: String,
}

impl RawMount {
    /// Parses the words (mount(8), "Filesystem-independent mount options").
    ///
    /// Layers of an overlay are written relative to their common directory when they would not
    /// fit into the page that the kernel takes.
    ///
    /// # Errors
    /// `ResourceExhausted`: too many layers even so.
    pub fn parse(mount: &Mount) -> Result<Self> {
        let mut flags = MsFlags::empty();
        let mut data = Vec::new();
        for option in &mount.options {
            match flag(option) {
                Some((flag, true)) => flags |= flag,
                Some((flag, false)) => flags &= !flag,
                None if option == "defaults" => {}
                None => data.push(option.as_str()),
            }
        }
        let is_bind = mount.kind == "bind" || flags.contains(MsFlags::MS_BIND);
        if is_bind {
            flags |= MsFlags::MS_BIND;
        }
        let is_read_only_bind = is_bind && flags.contains(MsFlags::MS_RDONLY);
        if is_read_only_bind {
            flags &= !MsFlags::MS_RDONLY;
        }
        let (data, workdir) = shorten(&data.join(","))?;
        let kind = if is_bind { String::new() } else { mount.kind.clone() };
        Ok(Self { kind, source: mount.source.clone(), flags, data, is_read_only_bind, workdir })
    }

    /// Mounts it on `target`, which must be absolute.
    ///
    /// A bind is what its source's mount is, and what the words say besides: `nosuid` of the source
    /// stays, whether the word is given or not. Mounts below an `rbind` are as they were.
    ///
    /// # Errors
    /// What mount(2) says, by class.
    pub fn mount(&self, target: &Path) -> Result<()> {
        let fail = |error: nix::Error| {
            Error::io(format!("mount {} on {}", self.source, target.display()), error)
        };
        if !self.workdir.is_empty() {
            nix::unistd::chdir(self.workdir.as_str()).map_err(fail)?;
        }
        let data = Some(self.data.as_str()).filter(|data| !data.is_empty());
        let kind = Some(self.kind.as_str()).filter(|kind| !kind.is_empty());
        mount(Some(self.source.as_str()), target, kind, self.flags, data).map_err(fail)?;
        let mut of_bind = self.flags & OF_A_BIND;
        of_bind.set(MsFlags::MS_RDONLY, self.is_read_only_bind);
        if self.flags.contains(MsFlags::MS_BIND) && !of_bind.is_empty() {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | of_bind | kept(target)?;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(fail)?;
        }
        Ok(())
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

fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "atime" => (MsFlags::MS_NOATIME, false),
        "bind" => (MsFlags::MS_BIND, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "nodev" => (MsFlags::MS_NODEV, true),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "remount" => (MsFlags::MS_REMOUNT, true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        _ => return None,
    })
}

/// Mount data that fits, and the directory that it is relative to.
fn shorten(data: &str) -> Result<(String, String)> {
    if data.len() <= DATA_BYTES {
        return Ok((data.to_owned(), String::new()));
    }
    let too_long = || {
        Error::exhausted(format!(
            "mount data of {} bytes: the kernel takes {DATA_BYTES}; the image has too many layers",
            data.len()
        ))
    };
    let lower =
        data.split(',').find_map(|word| word.strip_prefix("lowerdir=")).ok_or_else(too_long)?;
    let first = lower.split(':').next().unwrap_or_default();
    // The longest directory that all layers are in, with its slash.
    let mut common = &first[..first.rfind('/').map_or(0, |at| at + 1)];
    while !lower.split(':').all(|layer| layer.starts_with(common)) {
        let shorter = common.trim_end_matches('/');
        common = &common[..shorter.rfind('/').map_or(0, |at| at + 1)];
    }
    if common.len() < 2 {
        return Err(too_long());
    }
    let short: Vec<String> = data
        .split(',')
        .map(|word| match word.split_once('=') {
            Some((key @ ("lowerdir" | "upperdir" | "workdir"), value)) => {
                let value: Vec<&str> =
                    value.split(':').map(|dir| dir.strip_prefix(common).unwrap_or(dir)).collect();
                format!("{key}={}", value.join(":"))
            }
            _ => word.to_owned(),
        })
        .collect();
    let short = short.join(",");
    if short.len() > DATA_BYTES {
        return Err(too_long());
    }
    Ok((short, common.to_owned()))
}

/// The same tree for somebody who only reads.
///
/// An overlay loses its upper layer, which becomes the topmost lower one: the kernel gives a writable
/// layer to one mount at a time, and a volatile one never again.
pub fn for_reading(mounts: &[Mount]) -> Vec<Mount> {
    mounts
        .iter()
        .map(|mount| if mount.kind == "overlay" { folded(mount) } else { mount.clone() })
        .collect()
}

fn folded(mount: &Mount) -> Mount {
    let value = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
    let (Some(upper), Some(lower)) = (value("upperdir="), value("lowerdir=")) else {
        return mount.clone();
    };
    let is_for_writing = |option: &&String| {
        let words = ["upperdir=", "lowerdir=", "workdir="];
        *option == "volatile" || words.iter().any(|word| option.starts_with(word))
    };
    let mut options: Vec<String> =
        mount.options.iter().filter(|option| !is_for_writing(option)).cloned().collect();
    options.push(format!("lowerdir={upper}:{lower}"));
    Mount { options, ..mount.clone() }
}

/// Mounts `mounts` in order where nobody else can see it, hands the root of the tree to `work`,
/// and lets the kernel unmount it all when `work` is done, or when the daemon dies.
///
/// It runs on a thread of its own with a mount namespace of its own; `place` is any existing
/// directory, and several callers may use the same one at the same time. A single bind is not
/// mounted at all: its source is the tree.
///
/// This blocks: call it from [`blocking::run`](crate::blocking::run).
///
/// # Errors
/// What mount(2) says; what `work` says. `Internal` if `work` panicked.
pub fn with_mounted<T: Send>(
    mounts: &[Mount],
    place: &Path,
    work: impl FnOnce(OwnedFd) -> Result<T> + Send,
) -> Result<T> {
    if let [Mount { kind, source, options }] = mounts
        && kind == "bind"
        && !options.iter().any(|option| option == "ro")
    {
        return work(open_root(Path::new(source))?);
    }
    let raw: Vec<RawMount> = mounts.iter().map(RawMount::parse).collect::<Result<_>>()?;
    let span = tracing::Span::current();
    let run = || {
        let _entered = span.enter();
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .map_err(|error| Error::io("make a mount namespace", error))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|error| Error::io("make the mount namespace private", error))?;
        for raw in &raw {
            raw.mount(place)?;
        }
        work(open_root(place)?)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mounts".into())
            .spawn_scoped(scope, run)
            .map_err(|error| Error::io("start a thread", error))?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::internal("work in a mounted tree panicked; the daemon's log has the place"))
        })
    })
}

/// A mount that this process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The kernel's number of it, for as long as it is mounted.
    pub id: u64,
    /// Which directory of the file system it shows.
    pub root: PathBuf,
    /// Where.
    pub target: PathBuf,
    /// File system type.
    pub kind: String,
    /// What is mounted: a device, a file, or a word.
    pub source: String,
    /// Options of the file system, as it tells them; not those of the mount.
    pub options: Vec<String>,
}

/// All mounts that the caller's thread sees, mostly in the order in which they were made; some may be covered by others.
///
/// # Errors
/// What the system says.
pub fn seen() -> Result<Vec<Seen>> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|error| Error::io("read /proc/thread-self/mountinfo", error))?;
    Ok(listed(&text).collect())
}

/// The mounts of a mountinfo file (proc_pid_mountinfo(5)), in its order.
pub fn listed(mountinfo: &str) -> impl Iterator<Item = Seen> {
    mountinfo.lines().filter_map(read_seen)
}

/// The mount that a file is in. The kernel says which: by the path alone it could be one that another one covers.
///
/// # Errors
/// What the system says; `Internal`: it is in none that can be seen.
pub fn of(path: &Path) -> Result<Seen> {
    let fail = |error| Error::io(format!("look for {}", path.display()), error);
    let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| fail(error.into()))?;
    let about = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))
        .map_err(fail)?;
    let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    seen()?
        .into_iter()
        .find(|seen| Some(seen.id) == id)
        .ok_or_else(|| Error::internal(format!("{} is in no mount", path.display())))
}

/// Optional fields come before a hyphen.
fn read_seen(line: &str) -> Option<Seen> {
    let (mount, about) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let (root, target) = (mount.nth(2)?, mount.next()?);
    let mut about = about.split(' ');
    let (kind, source, options) = (about.next()?, about.next()?, about.next().unwrap_or_default());
    let text = |word| String::from_utf8_lossy(&plain(word)).into_owned();
    Some(Seen {
        id,
        root: OsString::from_vec(plain(root)).into(),
        target: OsString::from_vec(plain(target)).into(),
        kind: text(kind),
        source: text(source),
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// Without the octal escapes of spaces and such.
fn plain(word: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                bytes.push(escaped);
                rest = &behind[3..];
            }
            _ => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    bytes
}

/// Takes a mount away; who is inside keeps it until they leave. That there is none is fine.
///
/// # Errors
/// What umount2(2) says.
pub fn detach(target: &Path) -> Result<()> {
    use nix::errno::Errno;
    use nix::mount::{MntFlags, umount2};
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(Error::io(format!("unmount {}", target.display()), error)),
    }
}

/// Opens a directory as the root of a tree.
fn open_root(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::io(format!("open {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|&o| o.to_owned()).collect();
        Mount { kind: kind.into(), source: "s".into(), options }
    }

    #[test]
    fn words_become_flags_and_data() {
        let raw = RawMount::parse(&mount("tmpfs", &["nosuid", "size=1m", "defaults", "mode=755"]));
        let raw = raw.unwrap();
        assert_eq!(raw.flags, MsFlags::MS_NOSUID);
        assert_eq!(raw.data, "size=1m,mode=755");
        assert!(!raw.is_read_only_bind);
    }

    #[test]
    fn a_read_only_bind_is_remounted() {
        let raw = RawMount::parse(&mount("bind", &["rbind", "ro"])).unwrap();
        assert_eq!(raw.flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert!(raw.is_read_only_bind);
        assert!(raw.kind.is_empty());
        let raw = RawMount::parse(&mount("bind", &["ro", "rw", "bind"])).unwrap();
        assert!(!raw.is_read_only_bind, "the last word counts");
    }

    /// A container with a user by name could not be run with `--rm`: its volatile upper layer had been
    /// mounted before, to read /etc/passwd.
    #[test]
    fn a_reader_gets_no_upper_layer() {
        let overlay =
            mount("overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "volatile"]);
        let read = for_reading(&[overlay, mount("bind", &["rw", "rbind"])]);
        assert_eq!(read[0].options, ["lowerdir=/u:/b:/a"]);
        assert_eq!(read[1], mount("bind", &["rw", "rbind"]));
        let view = mount("overlay", &["lowerdir=/b:/a"]);
        assert_eq!(for_reading(std::slice::from_ref(&view)), [view]);
    }

    /// F-127: each word of the table, what it takes back, and what is data.
    #[test]
    fn mount_options() {
        use MsFlags as M;
        let recursive = M::MS_BIND | M::MS_REC;
        for (word, flag) in [
            ("dirsync", M::MS_DIRSYNC),
            ("mand", M::MS_MANDLOCK),
            ("noatime", M::MS_NOATIME),
            ("nodev", M::MS_NODEV),
            ("nodiratime", M::MS_NODIRATIME),
            ("noexec", M::MS_NOEXEC),
            ("nosuid", M::MS_NOSUID),
            ("relatime", M::MS_RELATIME),
            ("remount", M::MS_REMOUNT),
            ("ro", M::MS_RDONLY),
            ("strictatime", M::MS_STRICTATIME),
            ("sync", M::MS_SYNCHRONOUS),
            ("bind", M::MS_BIND),
            ("rbind", recursive),
        ] {
            let raw = RawMount::parse(&mount("ext4", &[word])).unwrap();
            assert_eq!((raw.flags, raw.data.as_str()), (flag, ""), "{word}");
        }
        for (set, clear) in [
            ("sync", "async"),
            ("noatime", "atime"),
            ("nodev", "dev"),
            ("nodiratime", "diratime"),
            ("noexec", "exec"),
            ("mand", "nomand"),
            ("relatime", "norelatime"),
            ("strictatime", "nostrictatime"),
            ("ro", "rw"),
            ("nosuid", "suid"),
        ] {
            let both = RawMount::parse(&mount("ext4", &["dirsync", set, "x=1", clear])).unwrap();
            assert_eq!((both.flags, both.data.as_str()), (M::MS_DIRSYNC, "x=1"), "{clear}");
            let alone = RawMount::parse(&mount("ext4", &[clear, set])).unwrap();
            assert!(!alone.flags.is_empty(), "the last word counts: {set}");
        }
        // All others, in their order; `defaults` says nothing.
        let words = ["subvolid=5", "defaults", "acl", "RO", "", "errors=remount-ro"];
        let raw = RawMount::parse(&mount("btrfs", &words[..4])).unwrap();
        assert_eq!((raw.flags, raw.data.as_str()), (M::empty(), "subvolid=5,acl,RO"));
        assert_eq!(raw.kind, "btrfs");
    }

    /// F-128: a virtual machine's, one of a container with the escapes and optional fields that there are, and lines that
    /// are none.
    #[test]
    fn mountinfo() {
        let machine = "\
15 20 0:3 / /proc rw,relatime - proc /proc rw
16 20 0:15 / /sys rw,relatime - sysfs /sys rw
17 20 0:5 / /dev rw,relatime - devtmpfs udev rw,size=1983516k,nr_inodes=495879,mode=755
20 1 253:1 / / rw,noatime - ext4 /dev/mapper/root rw,user_xattr,barrier=1,data=ordered
21 16 0:17 / /sys/kernel/security rw,relatime - securityfs none rw
";
        let container = "\
230 105 0:26 /docker/containers/a\\040b /etc/host\\011s rw,relatime shared:104 master:2 propagate_from:1 - \
overlay over\\134lay rw,lowerdir=/l\\054m
231 230 0:4 net:[4026532] /run/netns/x rw shared:5 - nsfs nsfs rw
232 230 8:17 / /mnt/- rw unbindable - ext4 /dev/sdb1 rw,errors=remount-ro
233 230 0:31 / /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup ro,cpuacct,cpu
";
        let table = |text: &str| -> Vec<String> {
            let line = |seen: Seen| {
                let (root, target) = (seen.root.display(), seen.target.display());
                let Seen { kind, source, options, .. } = &seen;
                format!("{root} on {target:?} {kind} {source} {}", options.join(" "))
            };
            listed(text).map(line).collect()
        };
        assert_eq!(
            table(machine),
            [
                r#"/ on "/proc" proc /proc rw"#,
                r#"/ on "/sys" sysfs /sys rw"#,
                r#"/ on "/dev" devtmpfs udev rw size=1983516k nr_inodes=495879 mode=755"#,
                r#"/ on "/" ext4 /dev/mapper/root rw user_xattr barrier=1 data=ordered"#,
                r#"/ on "/sys/kernel/security" securityfs none rw"#,
            ]
        );
        assert_eq!(
            table(container),
            [
                r#"/docker/containers/a b on "/etc/host\ts" overlay over\lay rw lowerdir=/l\054m"#,
                r#"net:[4026532] on "/run/netns/x" nsfs nsfs rw"#,
                r#"/ on "/mnt/-" ext4 /dev/sdb1 rw errors=remount-ro"#,
                r#"/ on "/sys/fs/cgroup/cpu,cpuacct" cgroup cgroup ro cpuacct cpu"#,
            ]
        );
        assert_eq!((plain("\\"), plain("\\9z1")), (b"\\".to_vec(), b"\\9z1".to_vec()));
        for broken in [
            "",
            "nonsense",
            "1 2 0:3 / /proc rw",
            "1 2 0:3 - proc /proc rw",
            "1 2 0:3 / /p rw - proc",
        ] {
            assert_eq!(table(broken), Vec::<String>::new(), "{broken:?}");
        }
    }

    #[test]
    fn a_path_has_a_mount() {
        assert!(seen().unwrap().iter().any(|seen| seen.target == Path::new("/proc")));
        assert_eq!(of(Path::new("/proc/self/status")).unwrap().kind, "proc");
        let missing = of(Path::new("/proc/none")).unwrap_err();
        assert_eq!(missing.class(), capstan_schema::Class::NotFound);
    }

    /// Runs `test` with a mount namespace of its own and a directory, where all mounts end with it.
    fn secluded(test: impl FnOnce(&Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let run = || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            super::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            test(&dir.path().canonicalize().unwrap());
        };
        std::thread::scope(|scope| scope.spawn(run).join()).unwrap();
    }

    fn put(kind: &str, source: &str, options: &[&str], target: &Path) {
        std::fs::create_dir_all(target).unwrap();
        let mount = Mount { source: source.into(), ..mount(kind, options) };
        RawMount::parse(&mount).unwrap().mount(target).unwrap();
    }

    /// What keeps a mount from being used, as the kernel tells it; what it was mounted with first is told
    /// of a file system too, so that binds are of one with nothing.
    fn words(target: &Path) -> Vec<&'static str> {
        use StatVfsMountFlags as F;
        let now = statvfs(target).unwrap().f_flag;
        let all =
            [(F::RDONLY, "ro"), (F::NOSUID, "nosuid"), (F::NODEV, "nodev"), (F::NOEXEC, "noexec")];
        all.into_iter().filter(|(flag, _)| now.contains(*flag)).map(|(_, word)| word).collect()
    }

    /// `nosuid`, `nodev` and `noexec` of a bind were lost, all three: the kernel ignores them in the first call.
    #[test]
    fn a_bind_has_the_words_that_it_was_given() {
        const WORDS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];
        secluded(|dir| {
            let source = dir.join("source");
            put("tmpfs", "none", &[], &source);
            put("tmpfs", "none", &["nodev"], &source.join("below"));
            std::fs::write(source.join("program"), "#!/bin/sh\n").unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(source.join("program"), open).unwrap();
            for number in 0..32 {
                let is_recursive = number & 16 != 0;
                let given: Vec<&str> =
                    (0..4).filter(|bit| number & (1 << bit) != 0).map(|bit| WORDS[bit]).collect();
                let mut options = given.clone();
                options.push(if is_recursive { "rbind" } else { "bind" });
                let target = dir.join(number.to_string());
                put("bind", source.to_str().unwrap(), &options, &target);
                assert_eq!(words(&target), given, "{options:?}");
                let below: &[&str] = if is_recursive { &["nodev"] } else { &given };
                assert_eq!(words(&target.join("below")), below, "below {options:?}");
                // And the kernel means it.
                let written = std::fs::write(target.join("file"), "");
                assert_eq!(written.is_err(), given.contains(&"ro"), "{options:?}: {written:?}");
                let run = std::process::Command::new(target.join("program")).status();
                assert_eq!(run.is_err(), given.contains(&"noexec"), "{options:?}: {run:?}");
                // Of a bind like this a bind has all of it, and what it is given besides.
                let again = dir.join(format!("{number}-again"));
                put("bind", target.to_str().unwrap(), &["bind", "nosuid"], &again);
                let mut both = given.clone();
                if !both.contains(&"nosuid") {
                    both.insert(usize::from(both.contains(&"ro")), "nosuid");
                }
                assert_eq!(words(&again), both, "nosuid of {options:?}");
            }
            assert_eq!(words(&source), Vec::<&str>::new(), "the source is as it was");
            put("bind", source.to_str().unwrap(), &["bind", "noatime"], &dir.join("times"));
            let times = statvfs(dir.join("times")).unwrap().f_flag;
            assert!(times.contains(StatVfsMountFlags::NOATIME), "{times:?}");
        });
    }

    /// F-129. It went by the longest path, and so told of a mount that nobody could reach any more.
    #[test]
    fn mount_lookup() {
        secluded(|dir| {
            let (above, below) = (dir.join("above"), dir.join("above/below"));
            put("tmpfs", "outer", &[], &above);
            put("tmpfs", "inner", &[], &below);
            let source = |path: &Path| of(path).unwrap().source;
            assert_eq!((source(&above), source(&below)), ("outer".into(), "inner".into()));
            std::fs::write(below.join("a file"), "").unwrap();
            std::os::unix::fs::symlink("below/a file", above.join("link")).unwrap();
            assert_eq!(source(&above.join("link")), "inner", "a link is followed");
            put("tmpfs", "second", &[], &below);
            assert_eq!(source(&below), "second", "the last one of a place is seen");
            put("tmpfs", "cover", &[], &above);
            std::fs::create_dir_all(&below).unwrap();
            assert_eq!(source(&below), "cover", "what is covered is not");
            // One that is moved is where it is now, wherever in the list.
            let moved = dir.join("moved");
            put("tmpfs", "first here", &[], &moved);
            put("tmpfs", "from there", &[], &below);
            put("tmpfs", "last here", &[], &moved);
            super::mount(Some(&below), &moved, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
                .unwrap();
            assert_eq!((source(&moved), source(&below)), ("from there".into(), "cover".into()));
        });
    }

    #[test]
    fn many_layers_are_written_relative() {
        let layers: Vec<String> = (0..200)
            .map(|n| format!("/var/lib/capstan/snapshotter.overlay/snapshots/{n}/fs"))
            .collect();
        let data = format!(
            "workdir=/var/lib/capstan/snapshotter.overlay/snapshots/200/work,lowerdir={}",
            layers.join(":")
        );
        let raw = RawMount::parse(&mount("overlay", &data.split(',').collect::<Vec<_>>())).unwrap();
        assert_eq!(raw.workdir, "/var/lib/capstan/snapshotter.overlay/snapshots/");
        assert!(raw.data.starts_with("workdir=200/work,lowerdir=0/fs:1/fs:"), "{}", raw.data);
        assert!(raw.data.len() <= DATA_BYTES);
    }

    #[test]
    fn too_many_layers_are_refused() {
        let layers: Vec<String> = (0..2000).map(|n| format!("/a/b/{n}/fs")).collect();
        let option = format!("lowerdir={}", layers.join(":"));
        let error = RawMount::parse(&mount("overlay", &[&option])).unwrap_err();
        assert_eq!(error.class(), capstan_schema::Class::ResourceExhausted);
    }
}
