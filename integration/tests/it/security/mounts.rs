//! A root filesystem, or a volume, that is made to lead what is mounted astray.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{RUNTIMES, Victim};

/// CVE-2025-31133: what masks a path is `/dev/null`, and the image has another.
#[test]
fn a_mask_is_no_file_of_the_images() {
    let victim = Victim::new();
    let dev = victim.rootfs.join("dev");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("console")).unwrap();
    // Opening is enough to know, and changes nothing where this is broken.
    let script = "(: >> /proc/sys/kernel/core_pattern) 2>/dev/null && echo open\n\
                  (: >> /proc/sysrq-trigger) 2>/dev/null && echo open\n\
                  head -c 1 /proc/kcore 2>/dev/null; head -c 1 /proc/timer_list 2>/dev/null; \
                  readlink /dev/null; true";
    for runtime in RUNTIMES {
        let run = victim.run(runtime, &[], &["sh", "-c", script]);
        assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{runtime}: {}", run.stderr);
    }
    victim.done();
}

/// A mount's target is a link that leads out of the root filesystem, absolutely or by `..`.
#[test]
fn a_mounts_target_is_inside() {
    let victim = Victim::new();
    let outside = victim.host.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "canary").unwrap();
    let source = victim.host.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("mine"), "mine").unwrap();
    symlink(&outside, victim.rootfs.join("absolute")).unwrap();
    let up = format!("{}{}", "../".repeat(20), outside.display());
    symlink(up, victim.rootfs.join("relative")).unwrap();
    let listing = || -> Vec<String> {
        let names = fs::read_dir(&outside).unwrap().flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    for runtime in RUNTIMES {
        for target in ["/absolute", "/relative", "/absolute/new", "/relative/new", "/absolute/file"]
        {
            let mount = format!("type=bind,src={},dst={target}", source.display());
            // Inside the link leads to a place inside, or the mount is refused.
            victim.run(runtime, &["--mount", &mount], &["sh", "-c", "echo evil > /absolute/file"]);
            assert_eq!(listing(), ["file"], "{runtime} {target}");
            assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "canary", "{target}");
        }
    }
    victim.done();
}

/// CVE-2025-62161 and its like: `/proc`, `/sys` or `/dev` of the image is a link. That is refused.
#[test]
fn a_kernel_filesystem_is_not_mounted_through_a_link() {
    for name in ["proc", "sys", "dev"] {
        let victim = Victim::new();
        let outside = victim.host.path("outside");
        fs::create_dir_all(outside.join("sys/kernel")).unwrap();
        fs::remove_dir_all(victim.rootfs.join(name)).unwrap();
        symlink(&outside, victim.rootfs.join(name)).unwrap();
        for runtime in RUNTIMES {
            let run = victim.run(runtime, &[], &["true"]);
            assert_eq!(run.code, 125, "{runtime} with a link as /{name}: {run:?}");
            assert!(run.stderr.starts_with("capstan: InvalidArgument: "), "{run:?}");
            assert!(run.stderr.contains(&format!("/{name}")), "{run:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{runtime} /{name}");
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let outside = outside.display().to_string();
            assert!(!mounts.contains(&outside), "{runtime}: mounted outside: {mounts}");
        }
        victim.done();
    }
}

/// CVE-2021-30465, CVE-2024-45310: a directory of a shared volume is swapped for a link while something is
/// mounted in it. `CAPSTAN_ROUNDS` says how often. runc before 1.1.14 makes empty directories outside then, so
/// it is asked only that nothing is in them.
#[test]
fn a_volume_that_changes_leads_nowhere() {
    let rounds: usize = std::env::var("CAPSTAN_ROUNDS")
        .map_or(40, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"));
    let victim = Victim::new();
    let outside = victim.host.path("outside");
    fs::create_dir(&outside).unwrap();
    let (volume, source) = (victim.host.path("volume"), victim.host.path("source"));
    for dir in [&volume, &source] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(source.join("mine"), "mine").unwrap();
    fs::create_dir(volume.join("way")).unwrap();
    symlink(&outside, volume.join("other")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.join("way"), volume.join("other"));
            while !is_over.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
            }
        });
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let shared = format!("type=bind,src={},dst=/vol", volume.display());
            for round in 0..rounds {
                let target = format!("/vol/way/new{round}/deep");
                let inside = format!("type=bind,src={},dst={target}", source.display());
                let mounts = ["--mount", &shared, "--mount", &inside];
                for runtime in RUNTIMES {
                    let script = format!("echo evil > {target}/evil");
                    victim.run(runtime, &mounts, &["sh", "-c", &script]);
                    let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
                    assert!(
                        names.is_empty() || runtime == "runc",
                        "{runtime}, round {round}: {names:?}"
                    );
                    for entry in names {
                        // It fails where there is anything below the two empty directories.
                        let _ = fs::remove_dir(entry.path().join("deep"));
                        fs::remove_dir(entry.path()).unwrap();
                    }
                }
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        work.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    victim.done();
}
