//! CVE-2021-41103, CVE-2024-25621, CVE-2020-15257: other users of the machine.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use capstan_integration::{Host, make_rootfs};
use rustix::fs::Mode;

/// Everything below a directory that others could do more with than to pass through.
fn lax(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_symlink() {
            continue;
        }
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let allowed = match () {
            () if kind.is_dir() => 0o711,
            () if kind.is_fifo() => 0o700,
            // To connect to a socket takes the right to write.
            () => 0o755,
        };
        // The place of a root filesystem has the mode that is right inside, and the files of images those of
        // the images; nobody else comes so far.
        let is_inside = path.ends_with("rootfs") || path.ends_with("fs");
        if mode & !allowed != 0 && !is_inside {
            found.push(format!("{mode:o} {}", path.display()));
        }
        if kind.is_dir() && !is_inside {
            lax(&path, found);
        }
    }
}

/// Nothing depends on the umask that the daemon was started with.
#[test]
fn nobody_else_gets_in_with_any_umask() {
    let mut host = Host::without_daemon(512);
    make_rootfs(&host.path("rootfs"));
    let rootfs = host.path("rootfs").display().to_string();
    let before = rustix::process::umask(Mode::empty());
    host.start();
    rustix::process::umask(before);
    for runtime in super::RUNTIMES {
        let run = ["run", "-d", "--runtime", runtime, "--rootfs", &rootfs, "--name", runtime];
        let mut run = run.to_vec();
        run.extend(["sleep", "1000"]);
        host.ok(&run);
    }
    let mut exec = host.command(&["tasks", "exec", "embedded", "sleep", "1000"]).spawn().unwrap();
    let io = host.state().join("runtime.linux/tasks/default/embedded/io");
    host.until("an exec has its streams", || io.is_dir() && fs::read_dir(&io).unwrap().count() > 0);
    let mut found = Vec::new();
    for top in [host.root(), host.state()] {
        let mode = top.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & !0o711, 0, "{}: {mode:o}", top.display());
        lax(&top, &mut found);
    }
    assert_eq!(found, Vec::<String>::new(), "others get in");
    let socket = host.path("capstan.sock").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(socket & 0o077, 0, "the daemon's socket: {socket:o}");
    // What a container makes has the modes that it asks for, whatever the daemon's umask.
    for runtime in super::RUNTIMES {
        let umask = host.ok(&["tasks", "exec", runtime, "sh", "-c", "umask"]);
        assert_eq!(umask.trim(), "0022", "{runtime} exec");
        let run = ["run", "--rm", "--runtime", runtime, "--rootfs", &rootfs, "sh", "-c", "umask"];
        assert_eq!(host.ok(&run).trim(), "0022", "{runtime}");
    }
    exec.kill().unwrap();
    exec.wait().unwrap();
    for runtime in super::RUNTIMES {
        host.remove(runtime);
    }
    host.assert_no_container();
}

/// A container in the host's network meets no socket of ours.
#[test]
fn no_socket_is_abstract() {
    let victim = super::Victim::new();
    let script = "grep -c '@.*\\(capstan\\|shim\\|runtime.linux\\)' /proc/net/unix; true";
    for runtime in super::RUNTIMES {
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        let run = victim.run(runtime, &["--net", "host"], &["sh", "-c", script]);
        assert_eq!(run.stdout, "0\n", "{runtime}: {run:?}");
        victim.host.remove("c");
    }
    victim.done();
}
