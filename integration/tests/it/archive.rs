//! Images from archives and into them, against skopeo, umoci and ctr; archives that lie; layers out of snapshots and
//! into them.

mod docker;
pub(crate) mod hostile;
pub(crate) mod peers;

use std::fs;
use std::process::Command;

use capstan_integration::{FakeRegistry, Host, Image, Layer, find, gzip, noise};

/// An image with a system in it and something to change.
pub(crate) fn image(seed: u32) -> Image {
    Image::new(vec![
        Layer::new().busybox().dir("d").file("d/gone", 0o644, b"1"),
        Layer::new().file("d/.wh.gone", 0o644, b"").file("d/noise", 0o640, &noise(300_000, seed)),
    ])
}

/// Runs a program that must succeed; answers its stdout.
pub(crate) fn succeed(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(find(program)).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

/// What `images ls` has of a name.
pub(crate) fn digest_of(host: &Host, name: &str) -> String {
    let list = host.json(&["images", "ls"]);
    let found = list.as_array().unwrap().iter().find(|image| image["name"] == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not in {list}"));
    found["target"]["digest"].as_str().unwrap().to_owned()
}

fn noise_of(host: &Host, image: &str) -> String {
    host.ok(&["run", "--rm", "--net", "host", image, "sha256sum", "/d/noise"])
}

#[test]
fn what_is_exported_can_be_imported_and_is_the_same() {
    let registry = FakeRegistry::start();
    let (one, two) = (image(1), image(2));
    let (one_name, two_name) = (registry.offer("one", &one), registry.offer("two", &two));
    let host = Host::new();
    for name in [&one_name, &two_name] {
        host.ok(&["images", "pull", "--plain-http", name]);
    }
    let file = host.path("images.tar").display().to_string();
    host.ok(&["images", "export", &file, &one_name, &two_name]);
    let bytes = fs::read(&file).unwrap();
    let again = host.command(&["images", "export", "-", &one_name, &two_name]).output().unwrap();
    assert!(again.status.success());
    assert!(again.stdout == bytes, "the same images give the same bytes");
    // What both have is in it once.
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.starts_with("blobs/sha256/s")).count(), 0);
    assert_eq!(names.iter().filter(|name| name.len() == "blobs/sha256/".len() + 64).count(), 7);

    let (gzipped, zstd) = (gzip(&bytes), host.path("images.tar.zst"));
    succeed("zstd", &["-q", "-f", &file, "-o", &zstd.display().to_string()]);
    for archive in [bytes, gzipped, fs::read(&zstd).unwrap()] {
        let other = Host::new();
        let output = other.capstan_with_input(&["images", "import", "-"], &archive);
        assert_eq!(output.code, 0, "{}", output.stderr);
        for (name, image) in [(&one_name, &one), (&two_name, &two)] {
            assert!(output.stdout.contains(name.as_str()), "{}", output.stdout);
            assert_eq!(digest_of(&other, name), image.manifest);
        }
        assert_eq!(other.ids(&["snapshots", "ls"]).len(), 3, "it is unpacked");
        assert_eq!(noise_of(&other, &one_name), noise_of(&host, &one_name));
        assert_eq!(other.ids(&["content", "active"]), Vec::<String>::new());
    }
}

#[test]
fn names_are_taken_as_they_are_asked_for() {
    let registry = FakeRegistry::start();
    let (one, two) = (image(1), image(2));
    let (one_name, two_name) = (registry.offer("one", &one), registry.offer("two", &two));
    let host = Host::new();
    for name in [&one_name, &two_name] {
        host.ok(&["images", "pull", "--plain-http", "--no-unpack", name]);
    }
    let file = host.path("images.tar").display().to_string();
    host.ok(&["images", "export", &file, &one_name, &two_name]);

    let other = Host::new();
    let import = |flags: &[&str]| {
        let mut args = vec!["images", "import", "--no-unpack", file.as_str()];
        args.extend(flags);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |flags: &[&str]| {
        let args = import(flags);
        other.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(
        run(&["--unnamed"]).lines().filter(|line| line.starts_with("-  sha256:")).count(),
        2
    );
    assert_eq!(other.ids(&["images", "ls"]), Vec::<String>::new());
    run(&["--name", &two_name]);
    assert_eq!(other.ids(&["images", "ls"]), std::slice::from_ref(&two_name));
    let args = import(&["--name", "example.com/none:1"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    other.fails(&args, 3, "NotFound", &["example.com/none:1", &one_name]);
    // A name that is another image here does not change its meaning by itself.
    registry.offer("one", &two);
    other.ok(&["images", "pull", "--plain-http", "--no-unpack", &one_name]);
    let args = import(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    other.fails(&args, 4, "AlreadyExists", &[&one_name, "--all"]);
    assert_eq!(digest_of(&other, &one_name), two.manifest);
    run(&["--all"]);
    assert_eq!(digest_of(&other, &one_name), one.manifest);
    assert_eq!(other.ids(&["snapshots", "ls"]), Vec::<String>::new());
    // An export that cannot be leaves no file.
    let none = other.path("none.tar").display().to_string();
    other.fails(&["images", "export", &none, "example.com/none:1"], 3, "NotFound", &["none:1"]);
    assert!(!other.path("none.tar").exists());
}

/// `snapshots diff | snapshots apply` gives the tree again, plain and compressed, and no view stays.
#[test]
fn a_diff_that_is_applied_makes_the_same_tree() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image(3));
    for snapshotter in ["overlay", "native"] {
        let host = Host::new();
        let of = ["--snapshotter", snapshotter];
        host.ok(&["images", "pull", "--plain-http", of[0], of[1], &name]);
        let chain = host.json(&["images", "unpack", of[0], of[1], &name]);
        let top = chain["chainId"].as_str().unwrap().to_owned();
        let script = "rm -r /d; mkdir -p /new/deep; echo hello > /new/deep/file; ln /new/deep/file /new/hard; \
                      ln -s deep/file /new/soft; chmod 2751 /new; chown 7:8 /new/deep/file; rm /etc/group; \
                      mkdir /etc/group; touch -d @12345 /new/hard";
        host.ok(&[
            "containers",
            "create",
            of[0],
            of[1],
            "--net",
            "host",
            "c",
            &name,
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(host.capstan(&["tasks", "start", "c"]).code, 0);
        host.ok(&["tasks", "delete", "c"]);
        let before = host.ids(&["snapshots", of[0], of[1], "ls"]);
        for compression in ["none", "gzip", "zstd"] {
            let args = ["snapshots", of[0], of[1], "diff", "--compression", compression, "c"];
            let layer = host.command(&args).output().unwrap();
            assert!(layer.status.success(), "{}", String::from_utf8_lossy(&layer.stderr));
            let again = host.command(&args).output().unwrap();
            assert!(layer.stdout == again.stdout, "{compression}: the same tree, the same bytes");
            host.ok(&["snapshots", of[0], of[1], "prepare", "copy", &top]);
            let applied = host
                .capstan_with_input(&["snapshots", of[0], of[1], "apply", "copy"], &layer.stdout);
            assert_eq!(applied.code, 0, "{}", applied.stderr);
            assert!(applied.stdout.starts_with("sha256:"), "{}", applied.stdout);
            assert_eq!(
                listing(&host, of, "copy"),
                listing(&host, of, "c"),
                "{snapshotter} {compression}"
            );
            host.ok(&["snapshots", of[0], of[1], "rm", "copy"]);
            assert_eq!(host.ids(&["snapshots", of[0], of[1], "ls"]), before, "a view stays");
        }
        // Between any two; of a committed one; into one that is not active.
        let own = host.command(&["snapshots", of[0], of[1], "diff", &top]).output().unwrap();
        assert!(own.status.success() && !own.stdout.is_empty());
        let args = ["snapshots", of[0], of[1], "apply", top.as_str()];
        let refused = host.capstan_with_input(&args, &own.stdout);
        assert_eq!(refused.code, 6, "{}", refused.stderr);
        host.fails(&["snapshots", of[0], of[1], "diff", "none"], 3, "NotFound", &["none"]);
        assert_eq!(host.ids(&["snapshots", of[0], of[1], "ls"]), before, "a view stays");
        assert_eq!(host.ids(&["content", "active"]), Vec::<String>::new());
        host.ok(&["containers", "rm", "c"]);
    }
}

/// Everything that can be seen of a snapshot's tree.
fn listing(host: &Host, of: [&str; 2], key: &str) -> String {
    let mounts = host.ok(&["snapshots", of[0], of[1], "mounts", key]);
    let dir = host.path("look");
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.display().to_string();
    // `mount -t bind SOURCE TARGET` is `mount --bind` for mount(8).
    let script = format!(
        "set -e; {}; cd {dir}; find . -mindepth 1 -printf '%p %y %m %U %G %n %l %T@ ' \\( -type d -printf '\\n' -o -printf '%s\\n' \\) | sort; \
         find . -type f -print0 | sort -z | xargs -0 sha256sum; cd /; umount {dir}",
        mounts.trim().replace("-t bind", "").replace("TARGET", &dir)
    );
    String::from_utf8(succeed("bash", &["-c", &script])).unwrap()
}

/// An archive has its name when it is whole: a client that is killed on the way, or that can write no more, leaves what was
/// there before.
#[test]
fn an_export_that_ends_early_keeps_what_was_there() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::process::ExitStatusExt as _;
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image(7));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let dir = host.path("archives");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("app.tar");
    let export = |before: &str| {
        let capstan = host.command(&["images", "export", &file.display().to_string(), &name]);
        let mut words = vec![capstan.get_program().to_string_lossy().into_owned()];
        words.extend(capstan.get_args().map(|word| word.to_string_lossy().into_owned()));
        let mut shell = Command::new(find("bash"));
        shell.args(["-c", &format!("umask 022; {before} exec \"$0\" \"$@\"")]).args(words);
        for (key, value) in capstan.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        shell.output().unwrap()
    };
    let listed = || fs::read_dir(&dir).unwrap().count();
    // It can write no more: the first one leaves nothing.
    let failed = export("ulimit -f 100; trap '' XFSZ;");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("File too large"), "{said}");
    assert_eq!(listed(), 0);

    assert!(export("").status.success());
    let whole = fs::read(&file).unwrap();
    assert!(whole.len() > 300_000, "it has the noise");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    assert!(!export("ulimit -f 100; trap '' XFSZ;").status.success());
    assert!(fs::read(&file).unwrap() == whole);
    assert_eq!(listed(), 1);
    // It is killed.
    assert_eq!(export("ulimit -f 100;").status.signal(), Some(25));
    assert!(fs::read(&file).unwrap() == whole);

    // By way of a link it is the file that changes, and what is no file is written to.
    let real = host.path("real.tar");
    fs::write(&real, "x").unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&real, &file).unwrap();
    assert!(export("").status.success());
    assert!(fs::read(&real).unwrap() == whole && file.is_symlink());
    host.ok(&["images", "export", "/dev/null", &name]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn an_image_is_mounted_and_unmounted() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image(4));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    let dir = host.path("mnt");
    fs::create_dir(&dir).unwrap();
    let at = dir.display().to_string();
    host.ok(&["images", "mount", &name, &at]);
    assert_eq!(fs::read(dir.join("d/noise")).unwrap(), noise(300_000, 4));
    assert!(!dir.join("d/gone").exists());
    assert!(fs::write(dir.join("d/new"), b"x").is_err(), "it is read-only");
    host.fails(&["images", "mount", &name, &at], 4, "AlreadyExists", &[]);
    host.ok(&["images", "umount", &at]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2, "the view is gone");
    host.fails(&["images", "umount", &at], 3, "NotFound", &[&at]);
    host.fails(&["images", "mount", "example.com/none:1", &at], 3, "NotFound", &["none:1"]);
    assert_eq!(host.remains().mounts, Vec::<std::path::PathBuf>::new());
}

/// Two unpacks of one image at once, and a `run` of an image whose name goes at the same moment.
#[test]
fn unpacks_meet_and_runs_race_with_removals() {
    let registry = FakeRegistry::start();
    let name = registry.offer("app", &image(5));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &name]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| host.ok(&["images", "unpack", &name]));
        }
    });
    assert_eq!(host.ids(&["snapshots", "ls"]).len(), 2);
    for _ in 0..8 {
        host.ok(&["images", "pull", "--plain-http", &name]);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                host.capstan(&["run", "--rm", "--pull", "never", "--net", "host", &name, "true"])
            });
            let gone = host.capstan(&["images", "rm", &name]);
            assert_eq!(gone.code, 0, "{}", gone.stderr);
            host.capstan(&["gc"]);
            let run = run.join().unwrap();
            let is_clean = run.code == 125 && run.stderr.starts_with("capstan: NotFound: ");
            assert!(run.code == 0 || is_clean, "{run:?}");
        });
    }
    host.assert_no_container();
}

/// Every blob of a pull says where it came from, and can come from there again: layers, and also manifests.
#[test]
fn a_damaged_blob_comes_again_from_where_it_came() {
    use std::os::unix::fs::FileExt as _;
    let registry = FakeRegistry::start();
    let made = image(6);
    let name = registry.offer("app", &made);
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &name]);
    let source = format!("http://{}", name.trim_end_matches(":latest"));
    for digest in made.blobs.keys() {
        let info = host.json(&["content", "inspect", digest]);
        assert!(info.to_string().contains(&source), "{info}");
        let file = host.root().join("content.local/blobs").join(digest.replace(':', "/"));
        let file = fs::File::options().write(true).open(file).unwrap();
        file.write_all_at(b"damage", 10).unwrap();
    }
    host.ok(&["system", "heal", "--full"]);
    for (digest, bytes) in &made.blobs {
        let got = host.command(&["content", "get", digest]).output().unwrap();
        assert!(got.stdout == *bytes, "{digest} is not whole again");
    }
}
