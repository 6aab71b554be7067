//! Id-mapped mounts: the user namespace that holds a map, and mount_setattr(2), which has no safe
//! wrapper yet.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use capstan_schema::{Error, Result};
use nix::libc;
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

/// Gives a tree that is mounted nowhere yet the ids of a user namespace.
///
/// # Errors
/// What mount_setattr(2) says. `EINVAL`: a file system in it cannot.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
pub(crate) fn set_ids(
    tree: impl AsFd,
    namespace: impl AsFd,
    is_recursive: bool,
    is_read_only: bool,
) -> std::io::Result<()> {
    let fd = |fd: i32| u64::try_from(fd).expect("an open descriptor is not negative");
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | if is_read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
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
