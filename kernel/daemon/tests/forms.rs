//! Plugins of ours pass the suites of their kinds in every form, under a real kernel: compiled in, as a library
//! on a thread, as a library in a process of its own; and nothing is left when the kernel has stopped.
//!
//! It needs root, a static busybox, and what `cargo xtask build --test` makes.

mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use capstan_content::LocalContent;
use capstan_diff_tar::TarDiffer;
use capstan_events::EventLog;
use capstan_gc_policy::AgePolicy;
use capstan_metadata::RedbMetadata;
use capstan_metrics::ProcessMetrics;
use capstan_runtime_linux::LinuxRuntime;
use capstan_sdk::conformance::{
    content, differ, gc_policy, metrics, runtime, sink, snapshotter, verifier,
};
use capstan_sdk::testing_disk::LoopDisk;
use capstan_sdk::{Plugin, PluginDescriptor, testing};
use capstan_sink_file::FileSink;
use capstan_snapshot_btrfs::BtrfsSnapshotter;
use capstan_snapshot_erofs::ErofsSnapshotter;
use capstan_snapshot_native::NativeSnapshotter;
use capstan_snapshot_overlay::OverlaySnapshotter;
use capstan_verify_cosign::CosignVerifier;
use capstan_verify_digest::DigestVerifier;

use host::{Form, Host, Programs};

/// Each looks at all of its process: where tests share one, they take turns.
static ALONE: Mutex<()> = Mutex::new(());

/// How long what was told to end may take to do so.
const PATIENCE: Duration = Duration::from_secs(5);

macro_rules! forms {
    ($($plugin:ident),* $(,)?) => {$(
        mod $plugin {
            use super::host::Form;

            #[test]
            fn as_static() {
                super::run(|| super::$plugin(Form::Static));
            }

            #[test]
            fn as_cdylib() {
                super::run(|| super::$plugin(Form::Cdylib));
            }

            #[test]
            fn as_remote() {
                super::run(|| super::$plugin(Form::Remote));
            }
        }
    )*};
}

forms![
    content_local,
    differ_tar,
    gc_policy_age,
    metrics_process,
    runtime_linux,
    sink_file,
    snapshotter_btrfs,
    snapshotter_erofs,
    snapshotter_native,
    snapshotter_overlay,
    verifier_cosign,
    verifier_digest,
];

async fn content_local(form: Form) {
    let host = boot::<LocalContent>(form, &[PluginDescriptor::of::<RedbMetadata>()], "").await;
    content::run(&host.link()).await;
    stop(host).await;
}

async fn differ_tar(form: Form) {
    let host = boot::<TarDiffer>(form, &[], "").await;
    differ::run(&host.link(), &place(&host)).await;
    stop(host).await;
}

async fn gc_policy_age(form: Form) {
    let host = boot::<AgePolicy>(form, &[], "keep_seconds = 60\nkeep_bytes = 3000000").await;
    gc_policy::run(&host.link()).await;
    stop(host).await;
}

async fn metrics_process(form: Form) {
    let host = boot::<ProcessMetrics>(form, &[], "").await;
    metrics::run(&host.link()).await;
    stop(host).await;
}

async fn runtime_linux(form: Form) {
    let section = format!(
        "shim = {:?}\nruntimes.embedded.binary = {:?}\n",
        program("capstan-shim"),
        program("capstan-runtime"),
    );
    let requires = [PluginDescriptor::of::<EventLog>(), PluginDescriptor::of::<RedbMetadata>()];
    let host = boot::<LinuxRuntime>(form, &requires, &section).await;
    let (bundle, _cgroups) = runtime::Bundle::of_busybox(host.dir().join("rootfs"));
    runtime::run(&host.link(), &bundle).await;
    stop(host).await;
}

async fn sink_file(form: Form) {
    let host = boot::<FileSink>(form, &[], "enabled = true").await;
    let path = host.dir().join("root/sink.file/events.jsonl");
    let read = || {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.map(|line: serde_json::Value| line["cursor"].as_u64().unwrap()).collect()
    };
    sink::run(&host.link(), read).await;
    stop(host).await;
}

async fn snapshotter_native(form: Form) {
    let host = boot::<NativeSnapshotter>(form, &[PluginDescriptor::of::<RedbMetadata>()], "").await;
    snapshotter::run(&host.link(), &place(&host)).await;
    stop(host).await;
}

async fn snapshotter_overlay(form: Form) {
    let requires = [PluginDescriptor::of::<RedbMetadata>()];
    let host = boot::<OverlaySnapshotter>(form, &requires, "").await;
    snapshotter::run(&host.link(), &place(&host)).await;
    stop(host).await;
}

async fn snapshotter_erofs(form: Form) {
    let host = boot::<ErofsSnapshotter>(form, &[PluginDescriptor::of::<RedbMetadata>()], "").await;
    snapshotter::run(&host.link(), &place(&host)).await;
    stop(host).await;
}

async fn snapshotter_btrfs(form: Form) {
    let disk = LoopDisk::new("btrfs", 200);
    let section = format!("root = {:?}", disk.path());
    let requires = [PluginDescriptor::of::<RedbMetadata>()];
    let host = boot::<BtrfsSnapshotter>(form, &requires, &section).await;
    snapshotter::run(&host.link(), &place(&host)).await;
    stop(host).await;
}

async fn verifier_cosign(form: Form) {
    let key = include_str!("../../../plugins/verify-cosign/tests/data/p256.pub");
    let section = format!("rules = [{{ images = \"registry.example/**\", keys = [{key:?}] }}]");
    let host = boot::<CosignVerifier>(form, &[], &section).await;
    verifier::run(&host.link()).await;
    stop(host).await;
}

async fn verifier_digest(form: Form) {
    let section = "rules = [{ images = \"registry.example/**\" }]";
    let host = boot::<DigestVerifier>(form, &[], section).await;
    verifier::run(&host.link()).await;
    stop(host).await;
}

/// What is loaded into a process stays in it, under the name of a descriptor that others have later.
#[test]
fn a_library_is_not_taken_for_one_before() {
    run(|| async {
        for _ in 0..2 {
            gc_policy_age(Form::Cdylib).await;
            metrics_process(Form::Cdylib).await;
        }
    });
}

/// One of the programs: in `CAPSTAN_BIN`, or where `cargo xtask build --test` puts them.
fn program(name: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let dir = std::env::var_os("CAPSTAN_BIN")
        .map_or_else(|| workspace.join("target/capstan-test"), PathBuf::from);
    let path = dir.join(name);
    assert!(path.exists(), "{} is not there: run `cargo xtask build --test`", path.display());
    path
}

async fn boot<P: Plugin>(form: Form, requires: &[PluginDescriptor], section: &str) -> Host {
    let programs = Programs { libraries: program("plugins"), host: program("capstand") };
    Host::boot::<P>(form, &programs, requires, section).await
}

fn place(host: &Host) -> PathBuf {
    let place = host.dir().join("place");
    fs::create_dir(&place).unwrap();
    place
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    testing::run(test);
}

/// Stops the host, and checks that nothing of it is left: no process, no thread of the plugin, no copy of its
/// library, no mount.
async fn stop(host: Host) {
    let dir = host.dir().to_owned();
    let id = host.id();
    if host.form() != Form::Static {
        assert!(!remains(id, &dir).is_empty(), "what is looked for is there until then");
    }
    host.stop().await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = remains(id, &dir);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left by {id}: {left:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn remains(id: &str, dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for thread in fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path()) {
        // It may have ended meanwhile.
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let children = read("children");
        left.extend(children.split_whitespace().map(|pid| format!("process {pid}")));
        let name = read("comm");
        // The system cuts names.
        if name.trim() == &id[..id.len().min(15)] {
            left.push(format!("thread {}", thread.display()));
        }
    }
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let file = fs::read_link(entry.path()).unwrap_or_default();
        if file.to_string_lossy().contains("memfd:capstan-plugin") {
            left.push(format!("open {}", file.display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().map(|line| line.split(' ').nth(4).unwrap_or_default());
    left.extend(points.filter(|point| Path::new(point).starts_with(dir)).map(Into::into));
    left
}
