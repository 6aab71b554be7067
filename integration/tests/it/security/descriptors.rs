//! What a process in a container could get hold of while it is being made: the runtime's program, the host's
//! descriptors.

use std::path::PathBuf;

use capstan_integration::{digest, find, program};

use super::{RUNTIMES, Victim};

/// CVE-2019-5736: the runtime is run from inside, and its program opened there and written to.
#[test]
fn the_runtimes_program_cannot_be_overwritten() {
    let victim = Victim::new();
    let programs: Vec<PathBuf> =
        [program("capstan-runtime"), program("capstan-shim"), find("runc"), find("crun")].into();
    let look = || -> Vec<String> {
        programs.iter().map(|path| digest(&std::fs::read(path).unwrap())).collect()
    };
    let before = look();
    victim.write("bin/self", 0o755, "#!/proc/self/exe\n");
    // Looks for processes that are none of its own programs, holds their program, and writes to it when they
    // have gone and the file is no longer busy.
    victim.write(
        "bin/attack",
        0o755,
        "#!/bin/sh\n\
         while :; do for p in /proc/[0-9]*; do\n\
         case $(readlink $p/exe) in */busybox|'') continue;; esac\n\
         exec 9<$p/exe || continue\n\
         echo hit >> /tmp/hits\n\
         for n in 1 2 3 4 5 6 7 8 9; do echo evil > /proc/self/fd/9; echo evil > $p/exe; done\n\
         done; done 2>/dev/null\n",
    );
    for runtime in RUNTIMES {
        for entry in ["/proc/self/exe", "/bin/self"] {
            // It may run and fail, or be refused.
            victim.run(runtime, &[], &[entry]);
        }
        victim.start(runtime, "c", &[], &["attack"]);
        for round in 0..10 {
            let entry = ["/proc/self/exe", "/bin/self", "/bin/true"][round % 3];
            victim.host.capstan(&["tasks", "exec", "c", entry]);
        }
        victim.host.remove("c");
        assert_eq!(look(), before, "{runtime}: a program of the host was changed");
    }
    victim.done();
}

/// CVE-2024-21626: the working directory is a descriptor that the runtime forgot to close.
#[test]
fn a_working_directory_is_no_descriptor_of_the_host() {
    let victim = Victim::new();
    let up = "../".repeat(20);
    let read = format!("cat {up}{} 2>/dev/null; true", victim.canary.display());
    for runtime in RUNTIMES {
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        for number in 3..20 {
            let workdir = format!("/proc/self/fd/{number}");
            let run = victim.run(runtime, &["--workdir", &workdir], &["sh", "-c", &read]);
            assert!(!run.stdout.contains("canary"), "{runtime} run in {workdir}: {run:?}");
            let args = ["tasks", "exec", "--workdir", &workdir, "c", "sh", "-c", &read];
            let exec = victim.host.capstan(&args);
            assert!(!exec.stdout.contains("canary"), "{runtime} exec in {workdir}: {exec:?}");
        }
        victim.host.remove("c");
    }
    victim.done();
}

/// CVE-2024-21626: 0, 1 and 2 are open, in the first process and in one that is started later.
#[test]
fn no_descriptor_of_the_host_is_open() {
    let victim = Victim::new();
    // The shell's own list is made by its own `echo`, which opens the directory as the next.
    let list = "echo /proc/self/fd/*; for f in /proc/self/fd/*; do readlink $f; done; true";
    let check = |what: &str, text: &str| {
        let mut lines = text.lines();
        let all = lines.next().unwrap_or_default().replace("/proc/self/fd/", "");
        assert!(all == "0 1 2" || all == "0 1 2 3", "{what}: {text}");
        let is_inside = |line: &str| {
            line == "/dev/null" || line.starts_with("pipe:") || line.starts_with("/proc/")
        };
        // FIFOs of the host have a path there, and are meant to be there.
        let state = victim.host.state().display().to_string();
        assert!(lines.all(|line| is_inside(line) || line.starts_with(&state)), "{what}: {text}");
    };
    for runtime in RUNTIMES {
        check(runtime, &victim.run(runtime, &[], &["sh", "-c", list]).stdout);
        victim.start(runtime, "c", &[], &["sleep", "1000"]);
        check(runtime, &victim.host.ok(&["tasks", "exec", "c", "sh", "-c", list]));
        victim.host.remove("c");
    }
    victim.done();
}
