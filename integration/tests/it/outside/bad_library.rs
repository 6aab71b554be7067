//! Libraries that are no good plugins: each is refused, with a reason, and nobody else notices.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_integration::{Host, find};

use super::third_party::{build, place, succeed};
use super::{Bystander, Status};

/// What the daemon's memory may grow by while it reads what a library sends.
const GROWTH_KIB: u64 = 32 << 10;

/// A library of `integration/data/bad_plugin.c` with macros.
fn compile(host: &Host, name: &str, macros: &[&str]) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bad_plugin.c");
    let library = host.path(&format!("{name}.so"));
    let macros = macros.iter().map(|it| format!("-D{it}"));
    let mut cc = Command::new(find("cc"));
    succeed(cc.args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).args(macros).arg(source));
    library.display().to_string()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A library that must not load, in neither form.
struct Check<'a> {
    host: &'a Host,
    bystander: Bystander<'a>,
    plugins: Vec<String>,
}

impl<'a> Check<'a> {
    fn new(host: &'a Host) -> Self {
        Self { host, bystander: Bystander::start(host), plugins: host.ids(&["plugins", "ls"]) }
    }

    fn refused(&self, what: &str, library: &str, code: i32, class: &str, parts: &[&str]) {
        self.host.fails(&["plugins", "load", library], code, class, parts);
        self.unchanged(what);
    }

    fn refused_isolated_too(
        &self,
        what: &str,
        library: &str,
        code: i32,
        class: &str,
        parts: &[&str],
    ) {
        self.refused(what, library, code, class, parts);
        self.host.fails(&["plugins", "load", "--isolated", library], code, class, parts);
        self.unchanged(what);
    }

    fn unchanged(&self, what: &str) {
        assert_eq!(self.host.ids(&["plugins", "ls"]), self.plugins, "{what}");
        let kept = self.host.root().join("plugins");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 0, "{what}: a copy is kept");
        self.bystander.check(what);
    }
}

#[test]
fn a_library_that_is_no_plugin_is_refused_with_the_reason() {
    let host = Host::new();
    let check = Check::new(&host);
    let compiled = |name: &str, macros: &[&str], code, class: &str, parts: &[&str]| {
        let library = compile(&host, name, macros);
        check.refused_isolated_too(name, &library, code, class, parts);
    };
    let invalid = |name: &str, macros: &[&str], part: &str| {
        compiled(name, macros, 5, "InvalidArgument", &[name, part]);
    };
    invalid("other-version", &["VERSION=99"], "ABI version 99");
    invalid("other-size", &["SIZE=24"], "24 bytes");
    invalid("other-magic", &["MAGIC=\"capstam\""], "is no entry");
    invalid("no-entry", &["NO_ENTRY"], "no function capstan_plugin");
    invalid("no-answer", &["NO_ANSWER"], "answers nothing");
    invalid("no-run", &["RUN=0"], "nothing to run");
    let corrupt = |name: &str, macros: &[&str], part: &str| {
        compiled(name, macros, 10, "Corrupt", &[name, part]);
    };
    corrupt("aborts", &["INIT=abort()"], "signal: 6");
    corrupt("crashes", &["INIT=*(volatile char*)0=0"], "signal: 11");
    corrupt("exits", &["INIT=exit(0)"], "exit status: 0");
    corrupt("returns", &["RETURN=0"], "exit status: 0");
    check.bystander.end();
}

#[test]
fn a_library_that_sends_no_capnp_or_far_too_much_is_refused() {
    let host = Host::new();
    let check = Check::new(&host);
    let before = resident_kib(host.daemon_pid());
    let sent = |name: &str, macro_: &str| {
        let library = compile(&host, name, &[macro_]);
        let output = host.capstan(&["plugins", "load", &library]);
        assert!([1, 5, 7, 10].contains(&output.code), "{name}: {output:?}");
        assert!(output.stderr.contains(name), "{name}: {output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{name}: {output:?}");
        check.unchanged(name);
    };
    sent("noise", "NOISE");
    // So many segments, as Cap'n Proto counts them: all but one.
    sent("many-segments", "WORDS=0x7fffffff,1");
    sent("some-segments", "WORDS=511,1");
    // One segment, with so many words.
    sent("long-segment", "WORDS=0,0xffffffff");
    // A message whose only pointer leads out of it.
    sent("wild-pointer", "WORDS=0,1,0xfffffffc,0xffffffff");
    // An empty one.
    sent("empty-message", "WORDS=0,0");
    let growth = resident_kib(host.daemon_pid()).saturating_sub(before);
    assert!(growth < GROWTH_KIB, "the daemon took {growth} KiB for it");
    check.bystander.end();
}

/// The daemon gives up on it after 10 s, and serves others meanwhile.
fn silent(name: &str, macros: &[&str]) {
    let host = Host::new();
    let check = Check::new(&host);
    let library = compile(&host, name, macros);
    let before = resident_kib(host.daemon_pid());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let parts = [name, "did not answer within 10s"];
            check.host.fails(&["plugins", "load", &library], 10, "Corrupt", &parts);
        });
        while !load.is_finished() {
            host.ok(&["images", "ls"]);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        load.join().unwrap();
    });
    check.unchanged(name);
    let growth = resident_kib(host.daemon_pid()).saturating_sub(before);
    assert!(growth < GROWTH_KIB, "the daemon took {growth} KiB for it");
    // The process that it was looked at in is gone.
    let is_host = |pid: &Path| {
        let command = fs::read(pid.join("cmdline")).unwrap_or_default();
        let parent = fs::read_to_string(pid.join("status")).unwrap_or_default();
        let daemon = format!("PPid:\t{}\n", host.daemon_pid());
        parent.contains(&daemon) && command.ends_with(b"plugin-host\0")
    };
    let hosts =
        || fs::read_dir("/proc").unwrap().flatten().filter(|it| is_host(&it.path())).count();
    host.until("its process is gone", || hosts() == 0);
    check.bystander.end();
}

#[test]
fn a_library_that_never_answers_is_given_up() {
    silent("silent", &[]);
}

/// The largest message that there can be, of which nothing comes.
#[test]
fn a_library_that_promises_more_than_it_sends_is_given_up() {
    silent("promises", &["WORDS=0,8388607"]);
}

#[test]
fn a_library_whose_constructor_never_returns_is_given_up() {
    silent("stuck", &["INIT=for(;;)pause()"]);
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let host = Host::new();
    let check = Check::new(&host);
    let good = fs::read(build("misbehaved").join("libmetrics_misbehaved.so")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = host.path(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    for length in [0, 3, 4, 63, 64, 1000, good.len() / 4, good.len() / 2] {
        let library = write("cut.so", &good[..length]);
        let what = format!("{length} bytes of it");
        check.refused_isolated_too(&what, &library, 10, "Corrupt", &["cut.so"]);
    }
    let script = write("script.so", b"#!/bin/sh\nexec true\n");
    check.refused("a script", &script, 10, "Corrupt", &["no shared library"]);
    let none = host.path("none.so").display().to_string();
    check.refused("a file that is not there", &none, 3, "NotFound", &["none.so"]);
    let daemon = capstan_integration::program("capstan");
    let program = place(&host, &daemon);
    check.refused("a program", &program, 10, "Corrupt", &["cannot load it"]);
    check.bystander.end();
}

#[test]
fn a_library_that_others_could_have_written_is_refused() {
    let host = Host::new();
    let check = Check::new(&host);
    let denied = |what: &str, library: &Path, parts: &[&str]| {
        let library = library.display().to_string();
        check.refused_isolated_too(what, &library, 8, "PermissionDenied", parts);
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let good = build("misbehaved").join("libmetrics_misbehaved.so");
    let library = PathBuf::from(place(&host, &good));
    mode(&library, 0o775);
    denied("a group may write to it", &library, &["mode 0775", "chmod go-w"]);
    mode(&library, 0o757);
    denied("all may write to it", &library, &["mode 0757"]);
    mode(&library, 0o755);
    let dir = host.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::rename(&library, dir.join("x.so")).unwrap();
    mode(&dir, 0o777);
    denied("all may write to its directory", &dir.join("x.so"), &["mode 0777", "dir:"]);
    mode(&dir, 0o755);
    std::os::unix::fs::chown(dir.join("x.so"), Some(1), None).unwrap();
    denied("it is another user's", &dir.join("x.so"), &["user 1", "chown root"]);
    std::os::unix::fs::chown(dir.join("x.so"), Some(0), None).unwrap();
    symlink(dir.join("x.so"), host.path("link.so")).unwrap();
    denied("a link to it", &host.path("link.so"), &["symbolic link"]);
    symlink(&dir, host.path("way")).unwrap();
    denied("a link to its directory", &host.path("way/x.so"), &["way", "symbolic link"]);

    // All that was wrong is put right: it loads.
    let library = dir.join("x.so").display().to_string();
    assert_eq!(host.ok(&["plugins", "load", &library]), "metrics.misbehaved\n");
    check.bystander.check("a good library");
    check.bystander.end();
}

#[test]
fn a_plugin_that_does_not_fit_in_is_refused() {
    let host = Host::new();
    let check = Check::new(&host);
    let examples = build("misbehaved").join("examples");
    let example = |name: &str| place(&host, &examples.join(format!("lib{name}.so")));
    let refused = |name: &str, code, class: &str, parts: &[&str]| {
        check.refused_isolated_too(name, &example(name), code, class, parts);
    };
    let circle = ["in a circle", "content.local -> metadata.circle -> content.local"];
    refused("circle", 6, "FailedPrecondition", &circle);
    refused("taken", 4, "AlreadyExists", &["metrics.process", "replace"]);
    refused("two", 6, "FailedPrecondition", &["this has 2", "export_plugin!"]);
    refused("unmet", 6, "FailedPrecondition", &["metrics.unmet", "nowhere"]);
    assert!(Status::of(&host, "metrics.process").is_running());
    check.bystander.end();
}

#[test]
fn a_bad_library_in_the_configuration_stops_the_boot_with_the_reason() {
    let mut host = Host::without_daemon(512);
    let library = place(&host, &build("misbehaved").join("libmetrics_misbehaved.so"));
    let other = compile(&host, "other-version", &["VERSION=99"]);
    let digest = "0".repeat(64);
    let fails = |host: &mut Host, more: &str, parts: &[&str]| {
        host.clear_log();
        host.configure(more);
        let log = host.try_start().expect_err("it must not start");
        for part in parts {
            assert!(log.contains(part), "{more}: no {part:?} in {log}");
        }
    };
    let pinned = format!("[load.\"metrics.misbehaved\"]\nlibrary = {library:?}\nsha256 = ");
    let parts = ["Corrupt", "metrics.misbehaved", "its sha256 is", digest.as_str()];
    fails(&mut host, &format!("{pinned}{digest:?}\n"), &parts);
    let named = format!("[load.\"metrics.other\"]\nlibrary = {library:?}\n");
    fails(
        &mut host,
        &named,
        &["InvalidArgument", "metrics.other", "is the plugin metrics.misbehaved"],
    );
    let wrong = format!("[load.\"metrics.other\"]\nlibrary = {other:?}\n");
    fails(&mut host, &wrong, &["InvalidArgument", "metrics.other", "ABI version 99"]);

    // A directory of plugins is as strict: what is in it is meant to run.
    let dir = host.path("plugins");
    fs::create_dir(&dir).unwrap();
    fs::copy(&other, dir.join("other.so")).unwrap();
    fails(&mut host, &format!("plugin_dirs = [{dir:?}]\n"), &["InvalidArgument", "other.so", "99"]);
    // By name: the first of two is told.
    fs::copy(&other, dir.join("a.so")).unwrap();
    fails(&mut host, &format!("plugin_dirs = [{dir:?}]\n"), &["InvalidArgument", "/a.so", "99"]);
    fs::remove_file(dir.join("a.so")).unwrap();
    fs::copy(&library, dir.join("other.so")).unwrap();
    let sum = succeed(Command::new(find("sha256sum")).arg(&library));
    let right = sum.split(' ').next().unwrap();
    host.configure(&format!("{pinned}{right:?}\n"));
    host.start();
    assert!(Status::of(&host, "metrics.misbehaved").is_running());
    host.stop();
    // A good one in a directory runs (F-024); what is no library there, and a directory that is missing, is fine.
    fs::write(dir.join("README"), "what they are").unwrap();
    host.configure(&format!("plugin_dirs = [\"/no/such/dir\", {dir:?}]\n"));
    host.start();
    assert!(Status::of(&host, "metrics.misbehaved").is_running());
}

/// A copy that the disk has damaged costs no more than its plugin, and is told.
#[test]
fn a_kept_library_that_is_damaged_is_shown_and_can_be_forgotten() {
    let mut host = Host::new();
    let library = place(&host, &build("misbehaved").join("libmetrics_misbehaved.so"));
    assert_eq!(host.ok(&["plugins", "load", &library]), "metrics.misbehaved\n");
    let kept = host.root().join("plugins/metrics.misbehaved.so");
    let bytes = fs::read(&kept).unwrap();
    assert_eq!(bytes, fs::read(&library).unwrap());
    host.stop();
    fs::write(&kept, &bytes[..bytes.len() / 2]).unwrap();
    host.start();
    let status = Status::of(&host, "metrics.misbehaved");
    assert_eq!(status.state, "failed", "{status:?}");
    assert!(status.last_error.contains("metrics.misbehaved.so"), "{status:?}");
    host.ok(&["images", "ls"]);
    host.ok(&["plugins", "unload", "metrics.misbehaved"]);
    assert!(!kept.exists());
    assert_eq!(host.ok(&["plugins", "load", &library]), "metrics.misbehaved\n");
}
