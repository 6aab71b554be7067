//! Id-mapped mounts: the user namespace that holds a map, and mount_setattr(2), which has no safe
//! wrapper yet.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use capstan_schema::{Error, Result};
use nix::libc;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// What the holder of a namespace needs, which only waits.
const STACK_BYTES: usize = 64 << 10;

/// Makes a user namespace with these maps, in the kernel's lines. It lives as long as the descriptor.
///
/// # Errors
/// What the kernel says: it refuses a map.
#[expect(unsafe_code, reason = "clone(2) with a stack")]
pub(crate) fn user_namespace(users: &str, groups: &str) -> Result<OwnedFd> {
    let fail = |error| Error::io("make a user namespace", error);
    let mut stack = vec![0; STACK_BYTES];
    let wait = || {
        // It is killed below; should we die before, the kernel does it.
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        nix::unistd::pause();
        0
    };
    // SAFETY: the child has a copy of our memory, not the memory itself, and calls nothing but prctl(2)
    // and pause(2); the stack is large enough for that, and is there until the child has ended.
    let child = unsafe {
        nix::sched::clone(
            Box::new(wait),
            &mut stack,
            CloneFlags::CLONE_NEWUSER,
            Some(libc::SIGCHLD),
        )
    };
    let child = child.map_err(|error| fail(error.into()))?;
    let namespace = map(child, users, groups);
    let _ = kill(child, Signal::SIGKILL);
    // Should the reaper be told first, there is nothing left to wait for.
    let _ = waitpid(child, None);
    namespace.map_err(fail)
}

fn map(child: Pid, users: &str, groups: &str) -> std::io::Result<OwnedFd> {
    std::fs::write(format!("/proc/{child}/uid_map"), users)?;
    std::fs::write(format!("/proc/{child}/gid_map"), groups)?;
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

/// Gives a tree that is mounted nowhere yet the ids of a user namespace, and what it has as a bind.
///
/// # Errors
/// What mount_setattr(2) says. `EINVAL`: a file system in it cannot.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
pub(crate) fn set_ids(
    tree: impl AsFd,
    namespace: impl AsFd,
    is_recursive: bool,
    of_bind: MsFlags,
) -> std::io::Result<()> {
    let fd = |fd: i32| u64::try_from(fd).expect("an open descriptor is not negative");
    let (set, cleared) = attributes_of(of_bind);
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | set,
        attr_clr: cleared,
        propagation: 0,
        userns_fd: fd(namespace.as_fd().as_raw_fd()),
    };
    let flags = libc::AT_EMPTY_PATH | if is_recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and the attributes are those of this size; both outlive the
    // call, which keeps neither.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Words of mount(2) in those of mount_setattr(2): what is set, and what is cleared before. How times are
/// kept is one number there.
fn attributes_of(of_bind: MsFlags) -> (u64, u64) {
    let times = [
        (MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        (MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        (MsFlags::MS_RELATIME, libc::MOUNT_ATTR_RELATIME),
    ];
    let others = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ];
    let has = |(flag, _): &&(MsFlags, u64)| of_bind.contains(*flag);
    let set = others.iter().filter(has).fold(0, |all, (_, attribute)| all | attribute);
    match times.iter().find(has) {
        Some((_, time)) => (set | time, libc::MOUNT_ATTR__ATIME),
        None => (set, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_mount_are_attributes() {
        assert_eq!(attributes_of(MsFlags::empty()), (0, 0));
        let hard = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        assert_eq!(attributes_of(hard), (1 | 2 | 4 | 8, 0));
        let times = MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
        assert_eq!(attributes_of(times), (0x10 | 0x80, 0x70));
        assert_eq!(attributes_of(MsFlags::MS_RELATIME), (0, 0x70));
    }
}
