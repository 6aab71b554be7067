//! A root filesystem without an image: Debian's static busybox in a directory, for `--rootfs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::find;

/// The applets that tests use.
const APPLETS: &[&str] = &[
    "cat", "chmod", "dd", "echo", "env", "false", "find", "grep", "head", "id", "kill", "ln", "ls",
    "mkdir", "mknod", "mount", "ps", "pwd", "readlink", "rm", "seq", "sh", "sleep", "stat", "true",
    "tty", "wc", "yes",
];

/// Makes one at `dir`, which must not be there.
pub fn make_rootfs(dir: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(dir.join(name)).expect("make a directory of a root filesystem");
    }
    fs::copy(find("busybox"), dir.join("bin/busybox")).expect("copy busybox");
    for name in APPLETS {
        symlink("busybox", dir.join("bin").join(name)).expect("link an applet");
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("write passwd");
    fs::write(dir.join("etc/group"), "root:x:0:\n").expect("write group");
}
