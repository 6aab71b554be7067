//! `capstan run`: from a registry to an exit code.

use capstan_integration::{DockerRegistry, Host};

/// Debian's base system prints its release and exits 7, on every runtime.
fn minbase(runtime: Option<&str>) {
    let registry = DockerRegistry::with(&["minbase"]);
    let host = Host::new();
    let image = registry.reference("minbase");
    let mut args = vec!["run", "--rm", "--plain-http"];
    args.extend(runtime.iter().flat_map(|name| ["--runtime", name]));
    args.extend([&image, "--", "/bin/sh", "-c", "cat /etc/os-release; exit 7"]);
    let output = host.capstan(&args);
    assert_eq!(output.code, 7, "{}", output.stderr);
    assert!(output.stdout.contains("ID=debian\n"), "{}", output.stdout);
    host.assert_no_container();
}

#[test]
fn minbase_exits_7_with_the_embedded_runtime() {
    minbase(None);
}

#[test]
fn minbase_exits_7_with_runc() {
    minbase(Some("runc"));
}

#[test]
fn minbase_exits_7_with_crun() {
    minbase(Some("crun"));
}

#[test]
fn the_flags_of_run_do_what_they_say() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    std::fs::create_dir(host.path("src")).unwrap();
    std::fs::write(host.path("src/file"), "from the host\n").unwrap();
    let mount =
        format!("type=bind,src={},dst=/mnt/in,options=rbind:ro", host.path("src").display());
    let run = |flags: &[&str], command: &str| {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([image.as_str(), "sh", "-c", command]);
        host.ok(&args)
    };
    let check = |flags: &[&str], command: &str, want: &str| {
        assert_eq!(run(flags, command).trim_end(), want, "{flags:?} {command}");
    };
    check(&["--env", "A=b c"], "echo $A", "b c");
    check(&["--workdir", "/etc"], "pwd", "/etc");
    check(&["--workdir", "/made/for/it"], "pwd", "/made/for/it");
    check(&["--user", "1000:1001"], "id -u; id -g", "1000\n1001");
    check(&["--user", "root"], "id -u", "0");
    check(&["--hostname", "here"], "hostname", "here");
    check(&["--read-only"], "touch /x 2>/dev/null || echo refused", "refused");
    check(&[], "touch /x && echo written", "written");
    check(&["--mount", &mount], "cat /mnt/in/file", "from the host");
    check(&["--mount", &mount], "touch /mnt/in/x 2>/dev/null || echo refused", "refused");
    check(&["--net", "private"], "ls /sys/class/net", "lo");
    // CAP_CHOWN is bit 0, CAP_SYS_ADMIN bit 21.
    let bit = |bit: u32| {
        format!("c=$(grep CapEff /proc/self/status | cut -f2); echo $(( (0x$c >> {bit}) & 1 ))")
    };
    check(&[], &bit(0), "1");
    check(&["--cap-drop", "CAP_CHOWN"], &bit(0), "0");
    check(&[], &bit(21), "0");
    check(&["--cap-add", "CAP_SYS_ADMIN"], &bit(21), "1");
    check(&["--privileged"], &bit(21), "1");
    // Each container has a number space of its own: the shell is the first in it.
    check(&[], "echo $$", "1");
    host.assert_no_container();
}

/// The limits of the flags are those of the cgroup, on whichever version the host has.
#[test]
fn limits_are_set_in_the_cgroup() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let args = ["--memory", "67108864", "--cpus", "0.5", "--pids-limit", "50"];
    let mut run = vec!["run", "-d", "--name", "web", "--plain-http"];
    run.extend(args);
    run.extend([image.as_str(), "sleep", "1000"]);
    host.ok(&run);
    let value = |v1: &str, v2: &str| {
        let groups = host.remains().cgroups;
        let own = groups.iter().filter(|dir| dir.ends_with("default/web"));
        let files = own.flat_map(|dir| [dir.join(v1), dir.join(v2)]);
        let read = files.filter_map(|file| std::fs::read_to_string(file).ok()).next();
        read.unwrap_or_else(|| panic!("neither {v1} nor {v2} is there")).trim().to_owned()
    };
    assert_eq!(value("memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(value("pids.max", "pids.max"), "50");
    let quota = value("cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next().unwrap(), "50000");
    host.remove("web");
    host.assert_no_container();
}

#[test]
fn stdin_reaches_the_process_and_ends() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let input = "line\n".repeat(200_000);
    let args = ["run", "--rm", "-i", "--plain-http", &image, "sh", "-c", "wc -l; echo end"];
    let output = host.capstan_with_input(&args, input.as_bytes());
    assert_eq!((output.code, output.stdout.as_str()), (0, "200000\nend\n"), "{}", output.stderr);
    host.assert_no_container();
}

/// The streams are complete before the exit is told, and not mixed up.
#[test]
fn output_is_complete() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    for _ in 0..5 {
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo oops >&2; exit 3";
        let output = host.capstan(&["run", "--rm", &image, "sh", "-c", script]);
        assert_eq!(output.code, 3);
        assert_eq!(output.stdout.len(), 3_000_000);
        assert_eq!(output.stderr, "oops\n");
    }
    host.assert_no_container();
}

#[test]
fn the_log_file_has_what_was_written() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let log = host.path("out.log");
    let log_file = log.display().to_string();
    let args = [
        "run",
        "--rm",
        "--plain-http",
        "--log-file",
        &log_file,
        &image,
        "sh",
        "-c",
        "echo a; echo b >&2",
    ];
    host.ok(&args);
    assert_eq!(std::fs::read_to_string(log).unwrap(), "a\nb\n");
    host.assert_no_container();
}

#[test]
fn a_directory_can_be_the_root() {
    let host = Host::new();
    let root = host.path("tree");
    for dir in ["bin", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(capstan_integration::find("busybox"), root.join("bin/sh")).unwrap();
    let args =
        ["run", "--rm", "--rootfs", root.to_str().unwrap(), "sh", "-c", "echo in $0; exit 4"];
    let output = host.capstan(&args);
    assert_eq!((output.code, output.stdout.as_str()), (4, "in sh\n"), "{}", output.stderr);
    host.assert_no_container();
}

#[test]
fn a_signal_is_128_and_its_number() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let child =
        host.command(&["run", "--rm", "--name", "s", &image, "sleep", "1000"]).spawn().unwrap();
    host.until("it runs", || host.ok(&["tasks", "ls"]).contains("running"));
    host.ok(&["tasks", "kill", "-s", "KILL", "s"]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    host.assert_no_container();
}

#[test]
fn snapshotter_native_runs_containers_too() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    let args = ["run", "--rm", "--plain-http", "--snapshotter", "native", &image, "echo", "hello"];
    assert_eq!(host.ok(&args), "hello\n");
    assert_eq!(host.ids(&["snapshots", "--snapshotter", "native", "ls"]).len(), 1);
    assert_eq!(host.ids(&["snapshots", "--snapshotter", "overlay", "ls"]).len(), 0);
    host.assert_no_container();
}
