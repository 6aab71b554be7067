//! Limits of writable layers: kept where the file system can, and said where it cannot.

mod machine;

use std::process::Command;

use capstan_integration::{Disk, FakeRegistry, Host, Image, Layer, find};

/// What `run` and `create` of a limited container on a host fail with, by the words of their error; nothing is made.
fn is_refused(host: &Host, snapshotter: &str, parts: &[&str]) {
    let registry = FakeRegistry::start();
    let image = registry.offer("small", &Image::new(vec![Layer::new().busybox()]));
    host.ok(&["images", "pull", "--plain-http", "--no-unpack", &image]);
    let of = ["--snapshotter", snapshotter];
    let create =
        ["containers", "create", of[0], of[1], "--storage-opt", "size=8m", "limited", &image];
    host.fails(&create, 12, "Unimplemented", parts);
    let run = ["run", "--rm", of[0], of[1], "--storage-opt", "size=8m", &image, "true"];
    host.fails(&run, 125, "Unimplemented", parts);
    let prepare = ["snapshots", of[0], of[1], "prepare", "--label", "capstan/size=8m", "key"];
    host.fails(&prepare, 12, "Unimplemented", parts);
    // Not even its image was unpacked.
    for list in [&["snapshots", of[0], of[1], "ls"][..], &["containers", "ls"]] {
        assert_eq!(host.ids(list), Vec::<String>::new());
    }
    // Without a limit all is as ever.
    host.ok(&["run", "--rm", of[0], of[1], &image, "true"]);
}

#[test]
fn a_file_system_that_keeps_no_limits_is_named_with_what_to_do() {
    let ext4 = Host::on(Disk::ext4(256));
    let (mut ext4, mut xfs) = (ext4, Host::on(Disk::xfs(400)));
    ext4.start();
    xfs.start();
    for snapshotter in ["overlay", "native", "erofs"] {
        let who = format!("snapshotter.{snapshotter}");
        is_refused(&ext4, snapshotter, &[&who, "on ext4", "tune2fs", "option prjquota"]);
        is_refused(&xfs, snapshotter, &[&who, "on xfs", "option pquota"]);
    }
    let disk = Disk::btrfs(256);
    let root = disk.path().display();
    let host = Host::with_config(&format!("[plugins.\"snapshotter.btrfs\"]\nroot = \"{root}\"\n"));
    let parts = ["snapshotter.btrfs", "btrfs quota enable", &root.to_string()];
    is_refused(&host, "btrfs", &parts);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let registry = FakeRegistry::start();
    let image = registry.offer("small", &Image::new(vec![Layer::new().busybox()]));
    let host = Host::new();
    host.ok(&["images", "pull", "--plain-http", &image]);
    for option in ["size=0", "size=", "size=much", "size=-1", "size", "inodes=5", "size=99999999t"]
    {
        let create = ["containers", "create", "--storage-opt", option, "c", &image];
        host.fails(&create, 5, "InvalidArgument", &["size"]);
    }
    for size in ["0", "much", "1.5g"] {
        let label = format!("capstan/size={size}");
        host.fails(
            &["snapshots", "prepare", "--label", &label, "k"],
            5,
            "InvalidArgument",
            &[size],
        );
    }
    let rootfs = host.path("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    let rootfs = rootfs.display().to_string();
    let create = ["containers", "create", "--storage-opt", "size=1m", "--rootfs", &rootfs, "c"];
    host.fails(&create, 5, "InvalidArgument", &["--storage-opt", "--rootfs"]);
    assert_eq!(host.ids(&["containers", "ls"]), Vec::<String>::new());
    // A container that was made without a limit gets none.
    host.ok(&["containers", "create", "c", &image]);
    let update = ["containers", "update", "c", "--storage-opt", "size=5m"];
    host.fails(&update, 12, "Unimplemented", &["prjquota"]);
    assert_eq!(host.json(&["containers", "inspect", "c"])["storageBytes"], 0);
    host.ok(&["containers", "update", "c", "--storage-opt", "size=none"]);
}

/// A snapshotter that does not know of limits is not asked for one in vain.
#[test]
fn a_snapshotter_that_cannot_says_so() {
    let mut host = Host::on(Disk::xfs(400));
    host.start();
    let library = capstan_integration::program("libsnapshotter_reflink.so");
    host.ok(&["plugins", "load", &library.display().to_string()]);
    let id = host.ids(&["plugins", "ls"]).into_iter().find(|id| id.contains("reflink")).unwrap();
    let name = id.strip_prefix("snapshotter.").unwrap();
    is_refused(&host, name, &[name, "cannot limit"]);
}

/// The same as in the machine, with the kernel that is here: btrfs keeps limits with any.
#[test]
fn btrfs_keeps_limits() {
    let disk = Disk::btrfs(512);
    let root = disk.path();
    let btrfs = |words: &[&str]| {
        let output = Command::new(find("btrfs")).args(words).arg(root).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    btrfs(&["quota", "enable"]);
    let registry = FakeRegistry::start();
    let image = registry.offer("small", &Image::new(vec![Layer::new().busybox()]));
    let mut host =
        Host::with_config(&format!("[plugins.\"snapshotter.btrfs\"]\nroot = {root:?}\n"));
    let run = ["run", "-d", "--plain-http", "--snapshotter", "btrfs"];
    let start = |host: &Host, name: &str, more: &[&str]| {
        let mut args = [&run[..], &["--name", name], more].concat();
        args.extend([image.as_str(), "sleep", "1000"]);
        host.ok(&args);
    };
    start(&host, "limited", &["--storage-opt", "size=8m"]);
    start(&host, "free", &[]);
    let fill = |host: &Host, id: &str| {
        let script = "dd if=/dev/zero of=/fill bs=64k count=320 2>/fill.log; \
            stat -c %s /fill; tail -n 1 /fill.log >&2; rm -f /fill";
        let output = host.capstan(&["tasks", "exec", id, "sh", "-c", script]);
        // What is removed counts until then.
        btrfs(&["filesystem", "sync"]);
        output.stdout.trim().parse::<u64>().unwrap_or_else(|_| panic!("{output:?}")) >> 10
    };
    let limit =
        |host: &Host| host.json(&["containers", "inspect", "limited"])["storageBytes"].clone();
    assert!((7 << 10..=8 << 10).contains(&fill(&host, "limited")));
    assert_eq!(fill(&host, "free"), 20 << 10);
    assert_eq!(limit(&host), 8 << 20);
    host.kill();
    host.start();
    assert_eq!(limit(&host), 8 << 20);
    assert!((7 << 10..=8 << 10).contains(&fill(&host, "limited")));
    host.ok(&["containers", "update", "limited", "--storage-opt", "size=12m"]);
    assert_eq!(limit(&host), 12 << 20);
    assert!((11 << 10..=12 << 10).contains(&fill(&host, "limited")));
    host.ok(&["containers", "update", "limited", "--storage-opt", "size=none"]);
    assert_eq!(limit(&host), 0);
    assert_eq!(fill(&host, "limited"), 20 << 10);
    for id in ["limited", "free"] {
        host.remove(id);
    }
    // What was removed goes with the next transaction.
    btrfs(&["filesystem", "sync"]);
    btrfs(&["subvolume", "sync"]);
    let left = btrfs(&["qgroup", "show", "-re"]);
    assert!(!left.contains("12.00MiB") && !left.contains("8.00MiB"), "{left}");
}
