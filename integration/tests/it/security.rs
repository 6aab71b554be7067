//! What a container must not get at: holes that software of this kind had, each tried against a canary, by
//! whoever would try.

mod descriptors;
mod floods;
mod inside;
mod modes;
mod mounts;
mod pids;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use capstan_integration::{DockerRegistry, FakeRegistry, Host, Image, Layer, Output, make_rootfs};

/// Those that a hole is tried with.
const RUNTIMES: [&str; 3] = ["embedded", "runc", "crun"];

/// A host whose containers have a root filesystem that is a directory, with a canary beside it.
struct Victim {
    host: Host,
    rootfs: PathBuf,
    /// Says `canary`, and must not be read or changed.
    canary: PathBuf,
}

impl Victim {
    fn new() -> Self {
        let mut host = Host::without_daemon(512);
        let (rootfs, canary) = (host.path("rootfs"), host.path("canary"));
        make_rootfs(&rootfs);
        fs::write(&canary, "canary").unwrap();
        host.start();
        Self { host, rootfs, canary }
    }

    /// Puts a file into the root filesystem.
    fn write(&self, name: &str, mode: u32, text: &str) {
        let path = self.rootfs.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn args<'a>(&'a self, runtime: &'a str) -> Vec<&'a str> {
        vec!["--runtime", runtime, "--rootfs", self.rootfs.to_str().unwrap()]
    }

    /// `capstan run --rm`, to its end.
    fn run(&self, runtime: &str, flags: &[&str], command: &[&str]) -> Output {
        let mut args = vec!["run", "--rm"];
        args.extend(self.args(runtime));
        args.extend(flags);
        args.extend(command);
        self.host.capstan(&args)
    }

    /// `capstan run -d`, which must work.
    fn start(&self, runtime: &str, id: &str, flags: &[&str], command: &[&str]) {
        let mut args = vec!["run", "-d", "--name", id];
        args.extend(self.args(runtime));
        args.extend(flags);
        args.extend(command);
        self.host.ok(&args);
    }

    fn shim(&self, id: &str) -> u32 {
        let task = self.host.json(&["tasks", "inspect", id]);
        u32::try_from(task["shimPid"].as_u64().unwrap()).unwrap()
    }

    /// A file of a container's cgroup.
    fn cgroup_file(&self, controller: &str, id: &str, file: &str) -> String {
        let below = format!("{}/default/{id}/{file}", self.host.cgroup());
        let tops = ["/sys/fs/cgroup".to_owned(), format!("/sys/fs/cgroup/{controller}")];
        let found = tops.iter().find_map(|top| fs::read_to_string(format!("{top}{below}")).ok());
        found.unwrap_or_else(|| panic!("no {below}"))
    }

    /// How many processes a container has.
    fn processes(&self, id: &str) -> usize {
        self.cgroup_file("pids", id, "cgroup.procs").lines().count()
    }

    /// Nothing happened to the canary, and nothing is left.
    fn done(self) {
        assert_eq!(fs::read_to_string(&self.canary).unwrap(), "canary");
        self.host.assert_no_container();
    }
}

fn check_inside(runtime: &str) {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let check = |command: &str, want: &str| {
        let args = ["run", "--rm", "--runtime", runtime, &image, "sh", "-c", command];
        assert_eq!(host.ok(&args).trim_end(), want, "{runtime}: {command}");
    };
    // Filter mode, and it refuses: new namespaces by unshare(2) and by clone(2) flags.
    check("grep Seccomp: /proc/self/status | cut -f2", "2");
    check("unshare -U true 2>/dev/null || echo refused", "refused");
    check("grep NoNewPrivs /proc/self/status | cut -f2", "1");
    // CVE-2022-24769: nothing inheritable.
    check("grep CapInh /proc/self/status | cut -f2", "0000000000000000");
    // CVE-2024-21626: no descriptor of the host. The shell has 0, 1 and 2; `ls` opens one more.
    check("ls /proc/self/fd | wc -l", "4");
    check("ls /proc/1/fd; true", "0\n1\n2");
    // Masked and read-only paths.
    check("cat /proc/kcore 2>/dev/null | head -c 1 | wc -c", "0");
    check("echo 1 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused", "refused");
    check("echo b 2>/dev/null > /proc/sysrq-trigger || echo refused", "refused");
    check("ls /sys/firmware | wc -l", "0");
    check("mount -t tmpfs x /tmp 2>/dev/null || echo refused", "refused");
    check("mknod /tmp/sda b 8 0 2>/dev/null; head -c 1 /tmp/sda 2>/dev/null | wc -c", "0");
    // It sees its own processes and its own mounts.
    check("[ $(ls /proc | grep -c '^[0-9]*$') -le 4 ] && echo few", "few");
    check(&format!("grep -c {} /proc/mounts || true", host.state().display()), "0");
    host.assert_no_container();
}

#[test]
fn a_container_of_the_embedded_runtime_is_closed() {
    check_inside("embedded");
}

#[test]
fn a_container_of_runc_is_closed() {
    check_inside("runc");
}

/// A process that is started later is no freer than the first.
#[test]
fn an_exec_is_closed_too() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    for runtime in ["embedded", "runc", "crun"] {
        let args = ["run", "-d", "--plain-http", "--runtime", runtime, "--name", "c", &image];
        let mut args = args.to_vec();
        args.extend(["sleep", "1000"]);
        host.ok(&args);
        let exec = |command: &str| host.ok(&["tasks", "exec", "c", "sh", "-c", command]);
        assert_eq!(exec("grep Seccomp: /proc/self/status | cut -f2"), "2\n", "{runtime}");
        assert_eq!(exec("unshare -U true 2>/dev/null || echo refused"), "refused\n", "{runtime}");
        assert_eq!(
            exec("grep CapInh /proc/self/status | cut -f2"),
            "0000000000000000\n",
            "{runtime}"
        );
        assert_eq!(exec("ls /proc/self/fd | wc -l"), "4\n", "{runtime}");
        host.remove("c");
    }
    host.assert_no_container();
}

/// A profile that cannot be applied is an error and no container, never skipped.
#[test]
fn a_seccomp_profile_is_applied_or_refused() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let profile = |name: &str, text: &str| {
        std::fs::write(host.path(name), text).unwrap();
        host.path(name).display().to_string()
    };
    let mkdir = profile(
        "mkdir.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":30}]}"#,
    );
    let command = "mkdir /tmp/x 2>&1 | grep -o 'Read-only file system'";
    for runtime in ["embedded", "runc", "crun"] {
        let args =
            ["run", "--rm", "--runtime", runtime, "--seccomp", &mkdir, &image, "sh", "-c", command];
        assert_eq!(host.ok(&args), "Read-only file system\n", "{runtime}");
    }
    for (number, bad) in
        ["no json", "{}", r#"{"defaultAction":"SCMP_ACT_WHATEVER"}"#, "[]"].into_iter().enumerate()
    {
        let bad = profile(&format!("bad{number}.json"), bad);
        let output = host.capstan(&["run", "--rm", "--seccomp", &bad, &image, "true"]);
        assert_eq!(output.code, 125, "{}", output.stderr);
    }
    let output = host.capstan(&["run", "--rm", "--seccomp", "/does/not/exist", &image, "true"]);
    assert_eq!(output.code, 125, "{}", output.stderr);
    host.assert_no_container();
}

/// An image that names a module of its own in nsswitch.conf had it loaded into the embedded runtime, with
/// all rights, before the container was closed (the way of CVE-2019-14271).
#[test]
fn an_image_gets_no_code_into_the_runtime() {
    let host = Host::new();
    let source = host.path("evil.c");
    let code = "#include <fcntl.h>\n__attribute__((constructor)) static void run(void) \
                { open(\"/canary\", O_CREAT | O_WRONLY, 0600); }\n";
    std::fs::write(&source, code).unwrap();
    let library = host.path("libnss_evil.so.2");
    let built = std::process::Command::new(capstan_integration::find("gcc"))
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    let library = std::fs::read(library).unwrap();
    let mut layer = Layer::new().busybox().file("etc/nsswitch.conf", 0o644, b"passwd: evil\n");
    for dir in ["lib", "lib64", "usr", "usr/lib", "usr/lib64"] {
        layer = layer.dir(dir);
    }
    for dir in ["lib", "lib64", "usr/lib", "usr/lib64"] {
        layer = layer.file(&format!("{dir}/libnss_evil.so.2"), 0o755, &library);
    }
    let registry = FakeRegistry::start();
    let reference = registry.offer("evil", &Image::new(vec![layer]));
    let check = |uid: &str, home: &str| {
        let script = "ls /canary 2>/dev/null; echo $HOME";
        let args = ["run", "--rm", "--plain-http", "--user", uid, &reference, "sh", "-c", script];
        assert_eq!(host.ok(&args), format!("{home}\n"));
    };
    check("0", "/root");
    check("4242", "/");
    host.ok(&["run", "-d", "--name", "c", &reference, "sleep", "1000"]);
    let script = "ls /canary 2>/dev/null; echo $HOME";
    assert_eq!(host.ok(&["tasks", "exec", "c", "sh", "-c", script]), "/root\n");
    assert_eq!(host.ok(&["tasks", "exec", "--user", "4242", "c", "sh", "-c", script]), "/\n");
    host.remove("c");
    host.assert_no_container();
}

/// Directories of the daemon let nobody else in, and no socket is without a name in a directory.
#[test]
fn state_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["run", "-d", "--plain-http", "--name", "c", &image, "sleep", "1000"]);
    let mode = |path: std::path::PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(host.root()), 0o700);
    assert_eq!(mode(host.state()) & 0o066, 0);
    assert_eq!(mode(host.state().join("runtime.linux/tasks/default/c")), 0o700);
    assert_eq!(mode(host.path("capstan.sock")), 0o600);
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours = |line: &&str| line.contains('@') && line.contains("capstan");
    assert_eq!(sockets.lines().filter(ours).count(), 0, "no abstract sockets");
    host.remove("c");
    host.assert_no_container();
}
