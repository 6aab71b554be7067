//! What can be done from inside with the default profile.

use std::time::{Duration, Instant};

use capstan_integration::{Host, Output, find, program};

use super::{RUNTIMES, Victim};

/// release_agent, core_pattern, uevent_helper, cgroups (CVE-2023-25809), all of /proc/sys: nothing can be
/// opened for writing. Nothing is written, so that where this fails the host is not changed.
#[test]
fn the_kernels_files_cannot_be_written() {
    let victim = Victim::new();
    let script = "find /proc/sys /sys/fs /sys/kernel /proc/sysrq-trigger /proc/irq /proc/bus -type f \
                  2>/dev/null | while read f; do (: >> $f) 2>/dev/null && echo $f; done; \
                  find /proc/sys /sys -type f 2>/dev/null | wc -l";
    for runtime in RUNTIMES {
        let run = victim.run(runtime, &[], &["sh", "-c", script]);
        let lines: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(lines.len(), 1, "{runtime}: can be written: {lines:?}");
        assert!(lines[0].trim().parse::<u32>().unwrap() > 100, "{runtime}: nothing was tried");
        for kind in ["cgroup", "cgroup2", "sysfs", "proc", "debugfs", "binfmt_misc"] {
            let script = format!("mount -t {kind} x /tmp 2>/dev/null && echo mounted; true");
            assert_eq!(victim.run(runtime, &[], &["sh", "-c", &script]).stdout, "", "{runtime}");
        }
    }
    victim.done();
}

/// CVE-2022-24769: no inheritable capability, also for another user and in an exec.
#[test]
fn no_capability_is_inheritable() {
    let victim = Victim::new();
    let script = "grep -E 'CapInh|CapAmb' /proc/self/status";
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    for runtime in RUNTIMES {
        for user in ["0", "1000"] {
            let run = victim.run(runtime, &["--user", user], &["sh", "-c", script]);
            assert_eq!(run.stdout, none, "{runtime} as {user}");
        }
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        for user in ["0", "1000"] {
            let exec = ["tasks", "exec", "--user", user, "c", "sh", "-c", script];
            assert_eq!(victim.host.ok(&exec), none, "{runtime} exec as {user}");
        }
        victim.host.remove("c");
    }
    victim.done();
}

/// CVE-2024-40635 and CVE-2026-46680: what is all digits is a number, whoever has it as a name.
#[test]
fn a_user_of_digits_is_a_number() {
    let victim = Victim::new();
    victim.write("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n1234:x:0:0::/:/bin/sh\n");
    victim.write("etc/group", 0o644, "root:x:0:\n1234:x:0:\n");
    let ids = ["sh", "-c", "id -u; id -g"];
    for runtime in RUNTIMES {
        let run = victim.run(runtime, &["--user", "1234:1234"], &ids);
        assert_eq!(run.stdout, "1234\n1234\n", "{runtime}: {}", run.stderr);
        let run = victim.run(runtime, &["--user", "1234"], &ids);
        assert!(run.stdout.starts_with("1234\n"), "{runtime}: {run:?}");
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        let exec = ["tasks", "exec", "--user", "1234:1234", "c", "sh", "-c", "id -u; id -g"];
        assert_eq!(victim.host.ok(&exec), "1234\n1234\n", "{runtime} exec");
        for user in ["4294967296", "4294967296:0", "-1", "2147483648", "0:4294967296"] {
            let user = format!("--user={user}");
            let run = victim.run(runtime, &[&user], &["sh", "-c", "id -u"]);
            assert_eq!((run.code, run.stdout.as_str()), (125, ""), "{runtime} {user}: {run:?}");
            let exec = victim.host.capstan(&["tasks", "exec", &user, "c", "id", "-u"]);
            assert_ne!(exec.code, 0, "{runtime} exec {user}: {exec:?}");
        }
        victim.host.remove("c");
    }
    victim.done();
}

/// CVE-2021-21334: what is made at the same time shares nothing.
#[test]
fn the_environment_of_one_is_never_anothers() {
    let victim = Victim::new();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let victim = &victim;
            scope.spawn(move || {
                for round in 0..5 {
                    let runtime = RUNTIMES[(number + round) % RUNTIMES.len()];
                    let own = format!("SECRET{number}=value{number}-{round}");
                    let text = victim.run(runtime, &["--env", &own], &["env"]).stdout;
                    let secrets: Vec<&str> =
                        text.lines().filter(|line| line.contains("SECRET")).collect();
                    assert_eq!(secrets, [own.as_str()], "{runtime}");
                }
            });
        }
    });
    victim.done();
}

/// A container that forks without end is held by the default limit, and others go on.
#[test]
fn a_fork_bomb_stays_in_its_container() {
    let victim = Victim::new();
    let bomb = "b() { b | b & }; b; while :; do sleep 1; done";
    for runtime in ["embedded", "runc"] {
        // Smaller than the default, so that the machine has something left for other tests.
        victim.start(runtime, "bomb", &["--pids-limit", "200"], &["sh", "-c", bomb]);
        victim.start(runtime, "default", &[], &["sleep", "1000"]);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let begin = Instant::now();
            victim.host.ok(&["tasks", "ls"]);
            assert_eq!(victim.run(runtime, &[], &["echo", "here"]).stdout, "here\n");
            assert!(begin.elapsed() < Duration::from_secs(20), "others took {:?}", begin.elapsed());
        }
        let count = victim.processes("bomb");
        assert!(count <= 200, "{runtime}: {count} processes");
        // The default is there, and it is not without end.
        let limit = victim.cgroup_file("pids", "default", "pids.max");
        assert!(limit.trim().parse::<u32>().is_ok_and(|limit| limit <= 4096), "{limit}");
        victim.host.remove("bomb");
        victim.host.remove("default");
    }
    victim.done();
}

/// CVE-2021-43784: what is too long for the way to the container is refused, and nothing was forked for it.
#[test]
fn a_spec_that_is_too_long_is_refused() {
    let victim = Victim::new();
    let long = "x".repeat(70_000);
    let is_refused = |run: &Output| {
        let start: String = run.stderr.chars().take(300).collect();
        assert!(run.code == 125 && start.starts_with("capstan: InvalidArgument: "), "{start}");
        assert!(run.stderr.len() < 1000, "what is too long is not shown");
    };
    for runtime in RUNTIMES {
        let mount = format!("type=bind,src=/{long},dst=/x");
        let run = victim.run(runtime, &["--mount", &mount], &["true"]);
        is_refused(&run);
        let mount = format!("type=bind,src=/tmp,dst=/{long}");
        let run = victim.run(runtime, &["--mount", &mount], &["true"]);
        is_refused(&run);
        // What is long and right arrives whole.
        let env = format!("LONG={long}");
        let run = victim.run(runtime, &["--env", &env], &["sh", "-c", "echo ${#LONG}"]);
        assert_eq!(run.stdout, "70000\n", "{runtime}");
        // What is beyond a limit of ours is never tried.
        let id = "y".repeat(5000);
        let run = victim.host.capstan(&["containers", "create", "--rootfs", "/", &id, "true"]);
        assert_ne!(run.code, 0);
    }
    victim.done();
}

/// TIOCSTI: a terminal in a container is its own, and without one it has none, whatever its caller has.
#[test]
fn a_callers_terminal_is_out_of_reach() {
    let host: &Host = &Victim::new().host;
    let rootfs = host.path("rootfs").display().to_string();
    let source = host.path("inject.c");
    let code = "#include <sys/ioctl.h>\n#include <fcntl.h>\n#include <stdio.h>\n\
                int main(void) { char c = 'X'; int fd = open(\"/dev/tty\", O_RDWR);\n\
                int in = ioctl(0, TIOCSTI, &c), tty = ioctl(fd, TIOCSTI, &c);\n\
                char sub = 3; int linux_ = ioctl(0, TIOCLINUX, &sub);\n\
                printf(\"stdin %d tty %d linux %d\\n\", in, tty, linux_); return 0; }\n";
    std::fs::write(&source, code).unwrap();
    let built = std::process::Command::new(find("gcc"))
        .args(["-static", "-o"])
        .arg(host.path("rootfs/bin/inject"))
        .arg(&source)
        .status();
    assert!(built.unwrap().success());
    let capstan = program("capstan");
    for runtime in RUNTIMES {
        // `script` gives the caller a terminal, and shows what comes to it.
        let line = format!(
            "{} run --rm --runtime {runtime} --rootfs {rootfs} sh -c 'inject; echo end' </dev/null",
            capstan.display()
        );
        let output = std::process::Command::new(find("script"))
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("CAPSTAN_ADDRESS", host.address())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("stdin -1 tty -1 linux -1"), "{runtime}: {text}");
        assert!(!text.contains('X'), "{runtime}: injected: {text}");
    }
    host.assert_no_container();
}
