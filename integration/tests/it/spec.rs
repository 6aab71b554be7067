//! What a user asks for is what is found inside a container.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use capstan_integration::{DockerRegistry, FakeRegistry, Host, Image, Layer};

/// A host with one image, `web`, that has a user, groups and a file of the user's.
fn host() -> (Host, FakeRegistry, String) {
    let passwd =
        b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/:/bin/sh\nnobody:x:65534:65534::/:/\n";
    let group = b"root:x:0:\nadm:x:4:web\nnobody:x:65534:\n";
    let layer = Layer::new()
        .busybox()
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, group)
        .file("mine", 0o600, b"mine\n");
    let registry = FakeRegistry::start();
    let reference = registry.offer("web", &Image::new(vec![layer]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &reference]);
    (host, registry, reference)
}

/// `run --rm FLAGS IMAGE sh -c SCRIPT`.
fn inside(host: &Host, runtime: &str, image: &str, flags: &str, script: &str) -> String {
    let mut args = vec!["run", "--rm", "--runtime", runtime];
    args.extend(flags.split_whitespace());
    args.extend([image, "sh", "-c", script]);
    host.ok(&args).trim_end().to_owned()
}

/// The file of a cgroup of this process's container, from the host.
fn limit(host: &Host, controller: &str, id: &str, file: &str) -> String {
    let cgroup = format!("{}/default/{id}", host.cgroup().trim_start_matches('/'));
    let top = Path::new("/sys/fs/cgroup");
    let places: Vec<PathBuf> =
        [top.join(controller).join(&cgroup).join(file), top.join(&cgroup).join(file)].into();
    let found = places.iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.unwrap_or_else(|| panic!("none of {places:?}")).trim_end().to_owned()
}

const NO: &str = "|| echo refused";

fn each_option(runtime: &str) {
    let (host, _registry, image) = host();
    let check = |flags: &str, script: &str, want: &str| {
        let got = inside(&host, runtime, &image, flags, script);
        assert_eq!(got, want, "{runtime}: {flags}: {script}");
    };
    check("--ulimit nofile=100:200", "ulimit -Sn; ulimit -Hn", "100\n200");
    check("", "ulimit -n", "1024");
    check("", "umask; touch /new; stat -c %a /new", "0022\n644");
    check("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500");
    check("", "cat /proc/self/oom_score_adj", "0");
    check("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1");
    check("--sysctl kernel.shmmax=4096", "cat /proc/sys/kernel/shmmax", "4096");
    check("--group-add adm --group-add 77", "id -G", "0 4 77");
    check("--user web", "id -u; id -g; id -G", "1000\n1001\n1001 4");
    check("--user nobody", "id -u", "65534");
    check("--user 2147483647", "id -u", "2147483647");
    let options =
        "grep ' /t ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -E 'size|noexec|mode'";
    check("--tmpfs /t:size=1m,mode=700", options, "noexec\nsize=1024k\nmode=700");
    let size = "grep ' /dev/shm ' /proc/mounts | grep -o 'size=[0-9a-z]*'";
    check("--shm-size 1m", size, "size=1024k");
    check("", size, "size=65536k");
    // A device may be used as far as it was given, and no other.
    let device = "--device /dev/loop-control:/dev/lc:r";
    check(device, &format!("(: < /dev/lc) 2>/dev/null && echo read {NO}"), "read");
    check(device, &format!("(: > /dev/lc) 2>/dev/null && echo written {NO}"), "refused");
    let other = format!("mknod /tmp/lc c 10 237; (: < /tmp/lc) 2>/dev/null && echo read {NO}");
    check("", &other, "refused");
    check("--read-only", &format!("touch /x 2>/dev/null {NO}"), "refused");
    let source = host.path("source");
    std::fs::create_dir(&source).unwrap();
    let volume = |options: &str| format!("-v {}:/v{options}", source.display());
    check(&volume(":ro"), &format!("touch /v/x 2>/dev/null {NO}"), "refused");
    check(&volume(""), "touch /v/x && ls /v", "x");
    let privileges = "grep NoNewPrivs /proc/self/status | cut -f2";
    check("--no-new-privileges=false", privileges, "0");
    check("--security-opt no-new-privileges=false", privileges, "0");
    check("--no-new-privileges=false", "grep Seccomp: /proc/self/status | cut -f2", "2");
    check("--privileged --no-new-privileges", privileges, "1");
    check("--security-opt mask=/mine", "cat /mine | wc -c", "0");
    let sys = "grep -c ' /proc/sys ' /proc/mounts; true";
    check("", sys, "1");
    check("--security-opt unmask=/proc/sys", sys, "0");
    check("--security-opt unmask=ALL", "grep -cE ' /proc/(kcore|bus) ' /proc/mounts; true", "0");
    check("--rootfs-propagation rslave", "echo fine", "fine");
    check("--annotation a=b", "echo fine", "fine");
    // Namespaces: the host's, or another's.
    let init = std::fs::read_to_string("/proc/1/comm").unwrap();
    check("--pid host", "cat /proc/1/comm", init.trim_end());
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    check("--uts host", "cat /proc/sys/kernel/hostname", name.trim_end());
    let link = |name: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        link.to_string_lossy().into_owned()
    };
    check("--ipc host", "readlink /proc/self/ns/ipc", &link("ipc"));
    check("--net host", "readlink /proc/self/ns/net", &link("net"));
    let mut args = vec!["run", "-d", "--runtime", runtime, "--name", "first"];
    args.extend(
        "--memory 64m --memory-swap 96m --memory-reservation 32m --cpu-shares 512".split(' '),
    );
    if Path::new("/dev/loop0").exists() {
        args.extend(
            "--device-write-iops /dev/loop0:100 --device-read-bps /dev/loop0:1m".split(' '),
        );
    }
    args.extend("--cpu-quota 20000 --cpu-period 50000 --cpuset-cpus 0 --pids-limit 77".split(' '));
    args.extend([&*image, "sleep", "1000"]);
    host.ok(&args);
    let pid = host.json(&["tasks", "ls"])[0]["pid"].as_u64().unwrap();
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let joined = format!("--net ns:/proc/{pid}/ns/net");
    check(&joined, "readlink /proc/self/ns/net", &net.to_string_lossy());
    if Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        let file = |controller: &str, file: &str| limit(&host, controller, "first", file);
        assert_eq!(file("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(file("memory", "memory.soft_limit_in_bytes"), (32 << 20).to_string());
        assert_eq!(file("cpu", "cpu.shares"), "512");
        assert_eq!(file("cpu", "cpu.cfs_quota_us"), "20000");
        assert_eq!(file("cpu", "cpu.cfs_period_us"), "50000");
        assert_eq!(file("cpuset", "cpuset.cpus"), "0");
        if Path::new("/dev/loop0").exists() {
            assert_eq!(file("blkio", "blkio.throttle.write_iops_device"), "7:0 100");
            assert_eq!(file("blkio", "blkio.throttle.read_bps_device"), "7:0 1048576");
        }
    }
    assert_eq!(limit(&host, "pids", "first", "pids.max"), "77");
    host.remove("first");
    host.assert_no_container();
}

#[test]
fn each_option_is_found_inside_with_the_embedded_runtime() {
    each_option("embedded");
}

#[test]
fn each_option_is_found_inside_with_runc() {
    each_option("runc");
}

/// What cannot be, or must not be, makes nothing.
#[test]
fn what_must_not_be_is_refused() {
    let (host, _registry, image) = host();
    let check = |flags: &str, class: &str, part: &str| {
        let mut args = vec!["run", "--rm"];
        args.extend(flags.split_whitespace());
        args.extend([&*image, "true"]);
        host.fails(&args, 125, class, &[part]);
    };
    let invalid = "InvalidArgument";
    check("--sysctl kernel.core_pattern=x", invalid, "kernel.core_pattern");
    check("--sysctl net.ipv4.ip_forward=1 --net host", invalid, "network of its own");
    check("--sysctl kernel.shmmax=1 --ipc host", invalid, "IPC");
    check("--annotation org.systemd.property.ExecStopPost=x", invalid, "annotation");
    check("--cgroup-parent /a/../..", invalid, "cgroup");
    check("--cgroup-parent rel", invalid, "cgroup");
    check("--device /etc/passwd:/dev/x", invalid, "/etc/passwd");
    check("--device /dev/loop-control:/x", invalid, "below /dev");
    check("--device /no/such", "NotFound", "/no/such");
    check("--ulimit files=1", invalid, "ulimit files");
    check("--group-add nosuch", "NotFound", "nosuch");
    check("--userns 0:100000:65536 --pid host", invalid, "pid namespace");
    check("--userns 0:100000:65536 --privileged", invalid, "privileged");
    check("--userns 0:100000:10 --user 1000", invalid, "1000");
    check("--memory-swap 1m", invalid, "memory");
    check("--device-read-bps /dev/null:1m", invalid, "block device");
    check("--net ns:/etc/passwd", invalid, "no namespace");
    check("--shm-size 1m --ipc host", invalid, "shm-size");
    check("--restart sometimes", invalid, "--restart");
    // CVE-2022-0811: a second parameter in the value of a first.
    let args =
        ["run", "--rm", "--sysctl", "kernel.shmmax=1\nkernel.core_pattern=|/x", &image, "true"];
    host.fails(&args, 125, invalid, &["one line"]);
    // CVE-2021-43784: more than the runtime's messages can carry.
    let long: Vec<String> = (0..17).map(|n| format!("/{n}{}", "x".repeat(4000))).collect();
    let mut args = vec!["run", "--rm"];
    long.iter().for_each(|place| args.extend(["--tmpfs", place]));
    args.extend([&*image, "true"]);
    host.fails(&args, 125, invalid, &["mounts"]);
    // What a user brings is no way around.
    let own = |change: &str| {
        let spec = host.ok(&["oci", "spec", &image, "true"]);
        let mut spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (path, value) in change.as_object().unwrap() {
            let mut place = &mut spec;
            for name in path.split('/') {
                place = &mut place[name];
            }
            *place = value.clone();
        }
        let path = host.path("spec.json");
        std::fs::write(&path, spec.to_string()).unwrap();
        path.display().to_string()
    };
    let hooks = own(r#"{"hooks": {"poststart": [{"path": "/bin/true"}]}}"#);
    host.fails(&["run", "--rm", "--config", &hooks, &image], 125, invalid, &["hooks"]);
    let cgroup = own(r#"{"linux/cgroupsPath": "/"}"#);
    host.fails(&["run", "--rm", "--config", &cgroup, &image], 125, invalid, &["cgroup"]);
    let sysctl = own(r#"{"linux/sysctl": {"kernel.core_pattern": "|/x"}}"#);
    host.fails(&["run", "--rm", "--config", &sysctl, &image], 125, invalid, &["core_pattern"]);
    host.assert_no_container();
}

/// F-267, F-268, D99: what an image says of its process is what that is, with every runtime, and for an exec too.
#[test]
fn an_images_configuration_is_that_of_its_process() {
    let layer = || {
        let passwd = b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/\n";
        let group = b"root:x:0:\nstaff:x:50:\nnobody:x:65534:\n";
        let layer = Layer::new().busybox().dir("work");
        layer.file("etc/passwd", 0o644, passwd).file("etc/group", 0o644, group)
    };
    let registry = FakeRegistry::start();
    let host = Host::new();
    let say = "echo $0 $1 $A; pwd; id -u; id -g";
    for (number, (user, ids)) in (0..).zip([
        ("nobody", "65534\n65534"),
        ("nobody:staff", "65534\n50"),
        ("70000:80000", "70000\n80000"),
        ("2147483647", "2147483647\n0"),
        ("", "0\n0"),
    ]) {
        let image = Image::new(vec![layer()]).configured(&serde_json::json!({
            "User": user,
            "Env": ["PATH=/bin", "A=of the image"],
            "WorkingDir": "/work",
            "Entrypoint": ["sh", "-c", say],
            "Cmd": ["x", "y"],
        }));
        let reference = registry.offer(&format!("user{number}"), &image);
        host.ok(&["images", "pull", "--plain-http", &reference]);
        for runtime in ["embedded", "runc", "crun"] {
            let run = |more: &[&str]| {
                let args = [&["run", "--rm", "--runtime", runtime, &*reference], more].concat();
                host.ok(&args)
            };
            let want = |words: &str| format!("{words} of the image\n/work\n{ids}\n");
            assert_eq!(run(&[]), want("x y"), "{runtime} {user}");
            assert_eq!(run(&["mine", "own"]), want("mine own"), "{runtime} {user}");
        }
        let kept = ["run", "-d", "--name", "x", &reference];
        let keep = ["-c", "sleep 1000"];
        // The command is behind the entrypoint, which only says what it is given.
        let spec = host.ok(&["oci", "spec", &reference]);
        let mut spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
        spec["process"]["args"] = serde_json::json!(["sh", keep[0], keep[1]]);
        let path = host.path("spec.json");
        std::fs::write(&path, spec.to_string()).unwrap();
        host.ok(&[&kept[..4], &["--config", path.to_str().unwrap()], &kept[4..]].concat());
        let exec = host.ok(&["tasks", "exec", "x", "sh", "-c", "id -u; id -g"]);
        assert_eq!(exec.trim_end(), ids, "an exec of {user}");
        host.remove("x");
    }
    let stranger = Image::new(vec![layer()]).configured(&serde_json::json!({ "User": "a:b:c" }));
    let reference = registry.offer("stranger", &stranger);
    let run = ["run", "--rm", "--plain-http", &reference, "true"];
    host.fails(&run, 125, "InvalidArgument", &["a:b:c"]);
    host.assert_no_container();
}

/// CVE-2025-47291: limits hold in a user namespace too. Files keep their owners, inside and on disk.
#[test]
fn a_user_namespace_maps_ids_by_the_mount() {
    let (host, _registry, image) = host();
    // The way to the state directory is the machine's; this machine's is nobody else's business.
    for dir in host.path("x").ancestors().skip(1).take(3) {
        if dir.starts_with(std::env::temp_dir()) && dir != std::env::temp_dir() {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
        }
    }
    for runtime in ["embedded", "runc", "crun"] {
        let check = |flags: &str, script: &str, want: &str| {
            let flags = format!("--userns 0:100000:65536 {flags}");
            let got = inside(&host, runtime, &image, &flags, script);
            assert_eq!(got, want, "{runtime}: {flags}: {script}");
        };
        check("", "cat /proc/self/uid_map | tr -s ' '", " 0 100000 65536");
        check("", "cat /proc/self/gid_map | tr -s ' '", " 0 100000 65536");
        check("", "id -u; stat -c %u:%g /mine; cat /mine", "0\n0:0\nmine");
        check("", "echo more >> /mine; touch /new; stat -c %u:%g /mine /new; rm /mine", "0:0\n0:0");
        check("--user web", "id -u; cat /mine 2>/dev/null || echo refused", "1000\nrefused");
        check("", "grep CapInh /proc/self/status | cut -f2", "0000000000000000");
        check("", "echo 1 2>/dev/null > /proc/sys/kernel/core_pattern || echo refused", "refused");
        // The same root filesystem, seen from outside: a user of no rights runs it.
        let source = host.path(&format!("share-{runtime}"));
        std::fs::create_dir(&source).unwrap();
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o777)).unwrap();
        check(&format!("-v {}:/v", source.display()), "touch /v/x", "");
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(source.join("x").metadata().unwrap().uid(), 100_000);
        let mut args = vec!["run", "-d", "--runtime", runtime, "--name", "u"];
        args.extend("--userns 0:100000:65536 --memory 64m --pids-limit 20".split(' '));
        args.extend([&*image, "sleep", "1000"]);
        host.ok(&args);
        let pid = host.json(&["tasks", "ls"])[0]["pid"].as_u64().unwrap();
        assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 100_000);
        assert_eq!(limit(&host, "pids", "u", "pids.max"), "20");
        let procs = limit(&host, "pids", "u", "cgroup.procs");
        assert!(
            procs.lines().any(|line| line == pid.to_string()),
            "{runtime}: {pid} not in {procs}"
        );
        assert_eq!(host.ok(&["tasks", "exec", "u", "sh", "-c", "umask"]), "0022\n", "{runtime}");
        // What is started later is in it too: libcontainer 0.7 left it on the machine, as root.
        let exec = ["tasks", "exec", "u", "sh", "-c", "tr -s ' ' < /proc/self/uid_map; id -u"];
        assert_eq!(host.ok(&exec), " 0 100000 65536\n0\n", "{runtime}");
        let exec = ["tasks", "exec", "--user", "web", "u", "sh", "-c", "id -u; id -G"];
        assert_eq!(host.ok(&exec), "1000\n1001 4\n", "{runtime}");
        // What is written by its root is root's on disk.
        host.ok(&["tasks", "exec", "u", "sh", "-c", "echo x > /written"]);
        let written = find(&host.root(), "written").expect("the upper layer has it");
        assert_eq!(written.metadata().unwrap().uid(), 0, "{runtime}");
        let bomb = "for i in $(seq 40); do sleep 5 & done 2>/dev/null; wait";
        let output = host.capstan(&["tasks", "exec", "u", "sh", "-c", bomb]);
        assert_ne!(output.code, 0, "{runtime}: no limit of processes");
        host.remove("u");
    }
    // Several stretches, of which the root filesystem is mapped too.
    let map = "--userns 0:100000:1,1:200000:65535 --user web";
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '";
    let got = inside(&host, "runc", &image, map, script);
    assert_eq!(got, "1000\n 0 100000 1\n 1 200000 65535");
    let mut args = vec!["run", "--rm"];
    args.extend(map.split(' '));
    args.extend([&*image, "true"]);
    host.fails(&args, 125, "Unimplemented", &["runc"]);
    host.assert_no_container();
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

/// A parent of the user's choice, below which the daemon's own is still the container's.
#[test]
fn a_container_is_in_the_cgroup_that_was_asked_for() {
    let (mut host, _registry, image) = host();
    let parent = format!("{}-parent", host.cgroup());
    let want = format!(":{parent}{}/default/", host.cgroup());
    for runtime in ["embedded", "runc"] {
        let flags = format!("--cgroup-parent {parent}");
        let cgroups = inside(&host, runtime, &image, &flags, "grep :pids: /proc/self/cgroup");
        assert!(cgroups.contains(&want), "{runtime}: no {want} in {cgroups}");
    }
    host.assert_no_container();
    host.stop();
    // The parent is whoever's who named it; what was made below it is gone.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let dir = hierarchy.path().join(parent.trim_start_matches('/'));
        if dir.exists() {
            std::fs::remove_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        }
    }
}

/// D98: a file of the host that is not there is left out, and the container runs.
#[test]
fn a_container_in_the_hosts_network_has_the_files_that_there_are() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    for runtime in ["embedded", "runc"] {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            let got = inside(&host, runtime, &image, "--net host", &format!("cat {file}; true"));
            assert_eq!(got, std::fs::read_to_string(file).unwrap_or_default().trim_end());
        }
    }
    host.assert_no_container();
}

/// Hooks are the administrator's: run as the configuration says, with nothing of the daemon's
/// environment, and refused where others could change them.
#[test]
fn hooks_come_from_the_configuration() {
    let registry = DockerRegistry::with(&["busybox"]);
    let mut host = Host::without_daemon(1024);
    let image = registry.reference("busybox");
    let hook = host.path("hook");
    let seen = host.path("seen");
    let mode =
        |mode| std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ncat > /dev/null\nenv > {}\n", seen.display()))
        .unwrap();
    mode(0o755);
    // Everything above must be root's alone; the directory of a test is.
    host.configure_containers(&format!(
        "[[plugins.\"containers.local\".hooks]]\nwhen = \"createRuntime\"\npath = {:?}\n",
        hook.display().to_string()
    ));
    host.start();
    for runtime in ["embedded", "runc"] {
        let _ = std::fs::remove_file(&seen);
        host.ok(&["run", "--rm", "--plain-http", "--runtime", runtime, &image, "true"]);
        let env = std::fs::read_to_string(&seen).expect("the hook ran");
        let strange: Vec<&str> = env
            .lines()
            .filter(|line| {
                !["PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|k| line.starts_with(k))
            })
            .collect();
        assert!(strange.is_empty(), "{runtime}: {strange:?}");
    }
    mode(0o777);
    host.fails(&["run", "--rm", &image, "true"], 125, "PermissionDenied", &["hook"]);
    host.assert_no_container();
}
