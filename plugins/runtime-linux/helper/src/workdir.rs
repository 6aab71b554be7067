//! The working directory, made where an image or a user names one that is not there.
//!
//! runc and crun do so too; libcontainer 0.7 fails with no more than "failed to unix syscall".

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};
use libcontainer::oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, ResolveFlags, chmod, mkdirat, open, openat2};
use rustix::io::Errno;

/// As a shell's umask would give it, whatever ours is.
const MODE: Mode = Mode::from_raw_mode(0o755);

/// Makes what is missing of a spec's working directory, in a root filesystem that nothing runs in yet.
///
/// Every step is resolved inside that root: a link of the image leads nowhere else.
pub(crate) fn make(spec: &Spec) -> Result<()> {
    let (Some(root), Some(process)) = (spec.root(), spec.process()) else { return Ok(()) };
    make_beneath(root.path(), process.cwd())
        .with_context(|| format!("make the working directory {}", process.cwd().display()))
}

fn make_beneath(root: &Path, path: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    let enter = |path: &Path| openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut parent = enter(Path::new("."))?;
    let mut so_far = PathBuf::from("/");
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        so_far.push(name);
        parent = match enter(&so_far) {
            Err(Errno::NOENT) => {
                make_one(&parent, Path::new(name))?;
                enter(&so_far)?
            }
            entered => entered?,
        };
    }
    Ok(())
}

fn make_one(parent: &OwnedFd, name: &Path) -> Result<()> {
    mkdirat(parent, name, MODE)?;
    // Through the descriptor that was just made, which an O_PATH one allows only by its link in /proc.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat2(parent, name, flags, Mode::empty(), ResolveFlags::BENEATH)?;
    chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), MODE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_is_missing_is_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, canary) = (dir.path().join("root"), dir.path().join("canary"));
        fs::create_dir_all(root.join("usr")).unwrap();
        fs::create_dir(&canary).unwrap();
        symlink("/usr", root.join("link")).unwrap();
        symlink(&canary, root.join("out")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let make = |path: &str| make_beneath(&root, Path::new(path));
        make("/").unwrap();
        make("/a/b/c").unwrap();
        make("/a/b/c").unwrap();
        assert_eq!(fs::metadata(root.join("a/b")).unwrap().permissions().mode() & 0o777, 0o755);
        make("/link/local").unwrap();
        assert!(root.join("usr/local").is_dir());
        // `..` at the top of the root is the root.
        make("/up/here").unwrap();
        assert!(root.join("here").is_dir());
        assert!(make("/file/x").is_err());
        assert!(make("/out/x").is_err(), "a link whose target is not inside");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    }
}
