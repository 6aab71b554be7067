//! `cargo xtask demo`: the commands of a first quarter of an hour, each as it is typed, with what it prints.
//!
//! It is a test as well: what does not happen as it is announced ends it with a sentence and exit
//! code 1. All of it is on a disk of its own, and at the end nothing is left of it.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::panic::{PanicHookInfo, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use capstan_integration::{Disk, DockerRegistry, FakeRegistry, Host, Image, Layer, Remains};
use rustix::process::geteuid;
use serde_json::json;

/// Sparse, so it takes what is written: an image of 2 MB, twice.
const DISK_MIB: u64 = 1024;

/// The container that is looked at from all sides.
const NAME: &str = "sleeper";

fn main() -> ExitCode {
    // The harness panics with a sentence, and a sentence is what a user wants to see.
    set_hook(Box::new(|panic| eprintln!("\ndemo: {}", sentence(panic))));
    match catch_unwind(show) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn sentence<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or("it failed, and did not say how")
}

fn show() {
    assert!(geteuid().is_root(), "containers need mounts and cgroups: run the demo as root");
    let begin = Instant::now();
    let mut host = place();
    let (disk, cgroup) = (disk_of(&host), host.cgroup().to_owned());
    let registry = Registry::start(&host);

    tell("The daemon: one process in the foreground, with one file of configuration.");
    print_command(&format!("cat {}", host.config().display()));
    print(&fs::read_to_string(host.config()).expect("read the configuration"));
    start(&mut host);
    print_command(&format!("export CAPSTAN_ADDRESS={}", host.address()));
    ok(&host, "What runs in it: everything is a plugin.", &["plugins", "ls"]);

    show_image(&host, &registry);
    show_containers(&host, &registry.image);
    show_memory(&host);
    show_survival(&mut host);
    show_end(&host);
    ok(&host, "All of this was written down.", &["events", "--since", "0"]);
    host.assert_no_container();

    tell("Stop the daemon.");
    print_command(&format!("kill -TERM {}", host.daemon_pid()));
    host.stop();
    drop((registry, host));
    check_nothing_is_left(&disk, &cgroup);
    tell("Nothing is left: no process, no mount, no cgroup, no file.");
    say(&format!("The demo took {:.1} s.", begin.elapsed().as_secs_f64()));
}

fn show_image(host: &Host, registry: &Registry) {
    let sentence = format!("Pull an image from {}.", registry.what);
    ok(host, &sentence, &["images", "pull", "--plain-http", &registry.image]);
    ok(host, "It has a name,", &["images", "ls"]);
    ok(host, "and is unpacked: a snapshot for each layer.", &["snapshots", "tree"]);
}

fn show_containers(host: &Host, image: &str) {
    let script = "echo Hello from $(hostname), process $$ in here; exit 7";
    exits(
        7,
        host,
        "Run a command in a container that goes away with it. Its exit code is the command's own.",
        &["run", "--rm", "--hostname", "demo", image, "--", "sh", "-c", script],
    );
    ok(
        host,
        "Run another one in the background.",
        &["run", "--detach", "--name", NAME, image, "--", "sleep", "1000"],
    );
    ok(host, "It is a task now,", &["tasks", "ls"]);
    ok(host, "in which other commands can run,", &["tasks", "exec", NAME, "ps"]);
    let job = ["tasks", "exec", "--detach", "--exec-id", "job", NAME, "sleep", "1000"];
    ok(host, "and stay.", &job);
    ok(host, "These are its processes now.", &["tasks", "ps", NAME]);
    ok(host, "Its files are a snapshot on top of the image's.", &["snapshots", "tree"]);
}

fn show_memory(host: &Host) {
    // The pages of a program's file are divided by those that run it; what is anonymous is its own.
    let pattern = r"^Pss:\|^Pss_Anon:\|^Pss_File:";
    tell("What it takes of memory: the daemon,");
    grep(pattern, &format!("/proc/{}/smaps_rollup", host.daemon_pid()));
    tell("and the shim, one for each task. They share the pages of their file.");
    grep(pattern, &format!("/proc/{}/smaps_rollup", parent_of(task_pid(host))));
}

fn show_survival(host: &mut Host) {
    let task = task_pid(host);
    tell("Kill the daemon in the middle of it all.");
    print_command(&format!("kill -KILL {}", host.daemon_pid()));
    host.kill();
    exits(7, host, "Nobody answers,", &["tasks", "ls"]);
    tell("but the container is the shim's child and lives on.");
    grep(r"^Name:\|^PPid:", &format!("/proc/{task}/status"));
    tell("Start the daemon again.");
    start(host);
    ok(host, "It knows the container", &["tasks", "ls"]);
    assert_eq!(task_pid(host), task, "{NAME} is not the process that it was");
    ok(host, "and all that runs in it,", &["tasks", "ps", NAME]);
    ok(host, "and can do with it what it could.", &["tasks", "exec", NAME, "uptime"]);
}

fn show_end(host: &Host) {
    ok(host, "End the container: kill its task,", &["tasks", "kill", "--signal", "KILL", NAME]);
    exits(128 + 9, host, "ask how it ended,", &["tasks", "wait", NAME]);
    ok(host, "delete the task,", &["tasks", "delete", NAME]);
    ok(host, "then the container.", &["containers", "rm", NAME]);
}

/// A disk of our own, or what there is.
fn place() -> Host {
    let disk = match Disk::try_ext4(DISK_MIB) {
        Ok(disk) => {
            tell("All of this happens on a fresh ext4 on a loop device. It goes away at the end.");
            disk
        }
        Err(error) => {
            tell("There is no loop device to be had, so all of this happens in a plain directory.");
            say(&error);
            Disk::directory()
        }
    };
    say(&format!("({})", disk.path().display()));
    Host::on(disk)
}

fn disk_of(host: &Host) -> PathBuf {
    host.root().parent().expect("the daemon's root is on its disk").to_owned()
}

/// Where the image comes from.
struct Registry {
    what: &'static str,
    /// Its reference.
    image: String,
    _running: Running,
}

/// What must stay as long as images are pulled.
enum Running {
    Debian { _it: DockerRegistry },
    Ours { _it: FakeRegistry },
}

impl Registry {
    /// One on loopback with an image: busybox in a single layer.
    fn start(host: &Host) -> Self {
        let image = Image::new(vec![Layer::new().busybox()]);
        if !is_there("docker-registry") || !is_there("skopeo") {
            tell("There is no docker-registry or no skopeo here, so we serve an image ourselves.");
            let registry = FakeRegistry::start();
            let image = registry.offer("busybox", &image);
            return Self {
                what: "a registry in this process",
                image,
                _running: Running::Ours { _it: registry },
            };
        }
        tell(
            "An image of busybox, pushed to a docker-registry on loopback, so nothing is downloaded.",
        );
        let storage = host.path("registry");
        fs::create_dir(&storage).expect("make a directory for the registry");
        let registry = DockerRegistry::serve(&storage);
        let reference = registry.reference("busybox");
        let layout = layout(&image, host.path("layout"));
        let from = format!("oci:{}:latest", layout.display());
        let to = format!("docker://{reference}");
        let args = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &from, &to];
        print_command(&format!("skopeo {}", args.join(" ")));
        succeed(Command::new("skopeo").args(args));
        Self { what: "the registry", image: reference, _running: Running::Debian { _it: registry } }
    }
}

/// Writes an image as a directory of the OCI image layout.
fn layout(image: &Image, dir: PathBuf) -> PathBuf {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make a directory for the image");
    for (digest, bytes) in &image.blobs {
        let name = digest.trim_start_matches("sha256:");
        fs::write(blobs.join(name), bytes).expect("write a blob");
    }
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest,
            "size": image.blobs[&image.manifest].len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write a file");
    fs::write(dir.join("index.json"), index.to_string()).expect("write the index");
    dir
}

fn is_there(program: &str) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

fn start(host: &mut Host) {
    print_command(&format!("capstand --config {} &", host.config().display()));
    let begin = Instant::now();
    host.start();
    say(&format!("(ready after {})", Millis(begin.elapsed())));
}

/// Shows a command that succeeds.
fn ok(host: &Host, sentence: &str, args: &[&str]) {
    exits(0, host, sentence, args);
}

/// Shows a command that ends with an exit code: as it is typed, then what it prints.
fn exits(code: i32, host: &Host, sentence: &str, args: &[&str]) {
    let words: Vec<String> = args.iter().map(|word| quoted(word)).collect();
    let typed = format!("capstan {}", words.join(" "));
    tell(sentence);
    print_command(&typed);
    let begin = Instant::now();
    let output = host.capstan(args);
    let took = Millis(begin.elapsed());
    print(&output.stdout);
    print(&output.stderr);
    match output.code {
        0 => say(&format!("({took})")),
        code => say(&format!("(exit code {code}, {took})")),
    }
    assert_eq!(output.code, code, "`{typed}` does not end as it should");
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0.as_millis())
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,".contains(c);
    if word.chars().all(is_plain) { word.into() } else { format!("'{word}'") }
}

fn task_pid(host: &Host) -> u32 {
    let tasks = host.json(&["tasks", "ls"]);
    let task = &tasks[0];
    assert_eq!(task["status"], "running", "{NAME} does not run: {tasks}");
    task["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a task has a process")
}

fn parent_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    parent.unwrap_or_else(|| panic!("{path} names no parent"))
}

/// Lines of one of the kernel's files.
fn grep(pattern: &str, path: &str) {
    print_command(&format!("grep {} {path}", quoted(pattern)));
    succeed(Command::new("grep").args([pattern, path]));
}

/// Runs a command of the system that must succeed, and prints what it prints.
fn succeed(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("run {:?}: {error}", command.get_program()));
    print(&String::from_utf8_lossy(&output.stdout));
    print(&String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}: {}", command.get_program(), output.status);
}

fn check_nothing_is_left(disk: &Path, cgroup: &str) {
    let remains = Remains::of(disk, cgroup);
    let is_clean =
        remains.processes.is_empty() && remains.mounts.is_empty() && remains.cgroups.is_empty();
    assert!(is_clean, "left behind: {remains:#?}");
    // With the mount point in it.
    assert!(!disk.exists(), "left behind: {}", disk.display());
}

/// What happens next.
fn tell(sentence: &str) {
    say(&format!("\n# {sentence}"));
}

fn print_command(typed: &str) {
    say(&format!("$ {typed}"));
}

fn say(line: &str) {
    print(&format!("{line}\n"));
}

fn print(text: &str) {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).expect("print");
}
