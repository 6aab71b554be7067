//! Checkpoint and restore. All that restores runs in namespaces of its own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use capstan_integration::{DockerRegistry, Host, criu, digest, find, secluded};
use serde_json::Value;

/// It counts, and leaves marks in its files, its memory file system and its environment.
const COUNT: &str = "echo changed > /mark; rm /bin/vi; echo shm > /dev/shm/mark; i=0; \
     while :; do i=$((i+1)); echo $i $KEY > /count; sleep 0.02; done";

fn configuration() -> String {
    format!("[plugins.\"runtime.linux\"]\ncriu = {:?}\n", criu().expect("it was there before"))
}

/// A host whose daemon has a criu that works; `None` if there is none, which is said.
fn host(test: &str) -> Option<(DockerRegistry, Host, String)> {
    if let Err(reason) = criu() {
        eprintln!("skipped: {test}: {reason}");
        return None;
    }
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::with_config(&configuration());
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    Some((registry, host, image))
}

fn count(host: &Host, id: &str) -> u64 {
    let mut found = None;
    // The file is empty for a moment each time that it is written.
    host.until("a count", || {
        let text = host.ok(&["tasks", "exec", id, "cat", "/count"]);
        found = text.split_whitespace().next().and_then(|word| word.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

fn status(host: &Host, id: &str) -> String {
    host.json(&["tasks", "inspect", id])["status"].as_str().unwrap().to_owned()
}

fn until_it_counts_to(host: &Host, id: &str, wanted: u64) {
    host.until("it counts", || count(host, id) >= wanted);
}

/// What there is of checkpoints and restores outside of the content store.
fn dumps(host: &Host) -> Vec<PathBuf> {
    let list = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let tops = ["dumps", "restores"].map(|name| host.state().join("tasks.local").join(name));
    tops.into_iter().flat_map(list).flat_map(list).collect()
}

fn is_swept(host: &Host) -> bool {
    dumps(host).is_empty() && host.ok(&["content", "active", "-q"]).is_empty()
}

/// Nothing of a checkpoint or a restore is left but what is in the content store (D19).
fn assert_no_dump(host: &Host) {
    assert_eq!(dumps(host), Vec::<PathBuf>::new());
    assert_eq!(host.ok(&["content", "active", "-q"]), "", "ingests are left");
}

/// What is behind a descriptor: media types and digests in order, parents first, and the bytes.
#[derive(Default)]
struct Walk {
    media_types: Vec<String>,
    names: Vec<String>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Walk {
    /// Every blob is there and is what its name says.
    fn of(&mut self, host: &Host, name: &str, size: Option<u64>, media_type: &str) {
        let output = host.command(&["content", "get", name]).output().unwrap();
        assert!(output.status.success(), "{name}");
        let bytes = output.stdout;
        assert_eq!(digest(&bytes), name);
        assert!(size.is_none_or(|size| size == bytes.len() as u64), "{name}");
        self.media_types.push(media_type.to_owned());
        self.names.push(name.to_owned());
        if media_type == INDEX || media_type == MANIFEST {
            let document: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(document["schemaVersion"], 2);
            // Some tools leave it out.
            assert!(document["mediaType"].as_str().is_none_or(|own| own == media_type));
            let lists = [&document["manifests"], &document["layers"]];
            let children = lists.into_iter().filter_map(Value::as_array).flatten();
            let config = Some(&document["config"]).filter(|config| config.is_object());
            for child in children.chain(config) {
                let text = |key: &str| child[key].as_str().unwrap();
                self.of(host, text("digest"), child["size"].as_u64(), text("mediaType"));
            }
        }
        self.blobs.insert(name.to_owned(), bytes);
    }

    fn count(&self, part: &str) -> usize {
        self.media_types.iter().filter(|name| name.contains(part)).count()
    }

    /// Pushes it to a registry, which checks every reference, and looks at it there.
    fn push(&self, index: &str, registry: &DockerRegistry) {
        let reference = registry.reference("saved");
        let address = reference.split('/').next().unwrap();
        let (mut manifests, mut others) = (Vec::new(), Vec::new());
        // Children come before what names them.
        for (media_type, name) in self.media_types.iter().zip(&self.names).rev() {
            let list = match media_type.as_str() {
                INDEX | MANIFEST => &mut manifests,
                _ => &mut others,
            };
            list.push((media_type, name));
        }
        for (_, name) in others {
            let (status, head) = http(address, "POST", "/v2/saved/blobs/uploads/", "", &[]);
            assert_eq!(status, 202, "{head}");
            let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
            let path = place.trim().split_once(address).map_or(place.trim(), |(_, path)| path);
            let path = format!("{path}&digest={name}");
            let kind = "application/octet-stream";
            let (status, head) = http(address, "PUT", &path, kind, &self.blobs[name]);
            assert_eq!(status, 201, "{name}: {head}");
        }
        // By its digest, and the index by a tag too.
        let tagged = ("latest", INDEX, index);
        let manifests =
            manifests.iter().map(|(kind, name)| (name.as_str(), kind.as_str(), name.as_str()));
        for (reference, media_type, name) in manifests.chain([tagged]) {
            let path = format!("/v2/saved/manifests/{reference}");
            let (status, head) = http(address, "PUT", &path, media_type, &self.blobs[name]);
            assert_eq!(status, 201, "{name}: {head}");
        }
        let (status, head) =
            http(address, "GET", &format!("/v2/saved/manifests/{index}"), INDEX, &[]);
        assert_eq!(status, 200, "{head}");
        assert!(head.contains(index), "{head}");
    }
}

/// One request, and the status and the head of its answer.
fn http(address: &str, verb: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{verb} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {kind}\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    (status, answer)
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[test]
fn a_checkpoint_goes_on_under_another_name_and_the_first_runs_all_the_while() {
    let name =
        "checkpoint::a_checkpoint_goes_on_under_another_name_and_the_first_runs_all_the_while";
    secluded(name, || {
        let Some((registry, host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--name", "one", "-e", "KEY=kept", &image];
        host.ok(&[&run[..], &["sh", "-c", COUNT]].concat());
        until_it_counts_to(&host, "one", 20);
        let before = count(&host, "one");
        let reference = "example.org/saved:1";
        let printed = host.ok(&["tasks", "checkpoint", "one", "--image", reference]);
        // D84: it was not asked to end.
        assert_eq!(status(&host, "one"), "running");
        assert_no_dump(&host);

        // F-208: image, container, dump and layer, in documents that any tool reads.
        let index = printed.trim();
        let mut found = Walk::default();
        found.of(&host, index, None, INDEX);
        let wanted = [
            (INDEX, 1),
            (MANIFEST, 2),
            ("capstan.checkpoint.config", 1),
            ("criu.checkpoint.criu.tar", 1),
            ("image.layer", 2),
        ];
        for (part, count) in wanted {
            assert_eq!(found.count(part), count, "{part}: {:?}", found.media_types);
        }
        found.push(index, &registry);
        let document: Value = serde_json::from_str(&host.ok(&["content", "get", index])).unwrap();
        assert_eq!(document["annotations"]["org.opencontainers.image.base.name"], image);
        assert!(host.ok(&["images", "ls", "-q"]).lines().any(|line| line == reference));

        // It is an image as any other.
        let run = ["run", "--rm", "--pull", "never", reference, "cat", "/mark"];
        assert_ne!(host.capstan(&run).code, 0, "the image is not what was changed");

        assert_eq!(host.ok(&["tasks", "restore", "two", reference]), "two\n");
        let after = count(&host, "two");
        assert!(after >= before, "{after}, and it was at {before}");
        until_it_counts_to(&host, "two", after + 5);
        assert_eq!(status(&host, "one"), "running");
        let exec = |command: &[&str]| host.capstan(&[&["tasks", "exec", "two"], command].concat());
        assert!(exec(&["cat", "/count"]).stdout.contains("kept"), "its environment");
        assert_eq!(exec(&["cat", "/mark"]).stdout, "changed\n");
        assert_eq!(exec(&["cat", "/dev/shm/mark"]).stdout, "shm\n");
        assert_ne!(exec(&["test", "-e", "/bin/vi"]).code, 0, "what it removed is back");
        assert_no_dump(&host);

        // It is in cgroups of its own name, and in no other.
        let info = host.json(&["tasks", "inspect", "two"]);
        let memberships = std::fs::read_to_string(format!("/proc/{}/cgroup", info["pid"])).unwrap();
        let own = format!("{}/default/two", host.cgroup());
        for line in memberships.lines() {
            assert!(line.ends_with(&own), "{line}");
        }

        // A restored one can be written down too, and what it is made of stays the image.
        let again = host.ok(&["tasks", "checkpoint", "two"]);
        let document: Value =
            serde_json::from_str(&host.ok(&["content", "get", again.trim()])).unwrap();
        assert_eq!(document["manifests"].as_array().unwrap().len(), 2, "{document}");
        let first: Value = serde_json::from_str(&host.ok(&["content", "get", index])).unwrap();
        assert_eq!(document["manifests"][0], first["manifests"][0], "the same image");

        for id in ["one", "two"] {
            host.remove(id);
        }
        host.assert_no_container();

        // F-212: from the registry to a daemon that never had any of it.
        drop(host);
        let host = Host::with_config(&configuration());
        let pulled = registry.reference("saved");
        assert!(host.ok(&["images", "pull", "--plain-http", &pulled]).contains(index));
        host.ok(&["tasks", "restore", "three", &pulled]);
        until_it_counts_to(&host, "three", before);
        assert_eq!(host.ok(&["tasks", "exec", "three", "cat", "/mark"]), "changed\n");
        host.remove("three");
        host.assert_no_container();
    });
}

#[test]
fn with_exit_it_ends_and_goes_on_under_its_own_name() {
    let name = "checkpoint::with_exit_it_ends_and_goes_on_under_its_own_name";
    secluded(name, || {
        let Some((_registry, mut host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--name", "web", &image, "sh", "-c", COUNT];
        host.ok(&run);
        until_it_counts_to(&host, "web", 20);
        let before = count(&host, "web");
        let reference = "example.org/saved:1";
        host.ok(&["tasks", "checkpoint", "web", "--exit", "--image", reference]);
        assert_eq!(host.capstan(&["tasks", "wait", "web"]).code, 137);
        assert_eq!(status(&host, "web"), "stopped");
        let told = host.ok(&["events", "--since", "0", "/tasks/checkpoint"]);
        assert!(told.contains("id=web exit=true") && told.lines().count() == 2, "{told}");
        host.fails(&["tasks", "checkpoint", "web"], 6, "FailedPrecondition", &["does not run"]);
        host.fails(&["tasks", "restore", "web", reference], 4, "AlreadyExists", &["web"]);
        host.ok(&["tasks", "delete", "web"]);
        host.ok(&["tasks", "restore", "web", reference]);
        let after = count(&host, "web");
        assert!(after >= before, "{after}, and it was at {before}");

        // The shim is its parent, as that of any: it outlives the daemon, and its end is told.
        host.kill();
        host.start();
        assert_eq!(status(&host, "web"), "running");
        until_it_counts_to(&host, "web", after + 5);
        host.ok(&["tasks", "kill", "--signal", "KILL", "web"]);
        assert_eq!(host.capstan(&["tasks", "wait", "web"]).code, 137);
        host.ok(&["tasks", "delete", "web"]);
        host.ok(&["containers", "rm", "web"]);
        assert_no_dump(&host);
        host.assert_no_container();
    });
}

/// It has no image and no snapshot: the directory is used as it is.
#[test]
fn a_container_on_a_directory_can_be_written_down_too() {
    let name = "checkpoint::a_container_on_a_directory_can_be_written_down_too";
    secluded(name, || {
        let Some((_registry, host, _image)) = host(name) else { return };
        let rootfs = host.path("rootfs");
        for dir in ["bin", "dev", "proc", "sys", "run"] {
            std::fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        std::fs::copy(find("busybox"), rootfs.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "cat"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let script = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done";
        let directory = rootfs.to_str().unwrap();
        let run = ["run", "-d", "--runtime", "runc", "--name", "one", "--rootfs", directory];
        host.ok(&[&run[..], &["sh", "-c", script]].concat());
        until_it_counts_to(&host, "one", 20);
        let saved = ["tasks", "checkpoint", "one", "--exit", "--image", "example.org/saved:1"];
        let index: Value =
            serde_json::from_str(&host.ok(&["content", "get", host.ok(&saved).trim()])).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
        host.ok(&["tasks", "restore", "two", "example.org/saved:1"]);
        until_it_counts_to(&host, "two", 30);
        for id in ["one", "two"] {
            host.remove(id);
        }
        host.assert_no_container();
    });
}

/// Where a snapshotter copies, the copy is compared with the image.
#[test]
fn a_container_of_the_native_snapshotter_keeps_its_files() {
    let name = "checkpoint::a_container_of_the_native_snapshotter_keeps_its_files";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--snapshotter", "native", "--name", "one"];
        host.ok(&[&run[..], &[&image, "sh", "-c", COUNT]].concat());
        until_it_counts_to(&host, "one", 5);
        let digest = host.ok(&["tasks", "checkpoint", "one", "--image", "example.org/saved:1"]);
        let mut found = Walk::default();
        found.of(&host, digest.trim(), None, INDEX);
        let mut parts = found.media_types.iter().zip(&found.names);
        let layer = parts.rfind(|(kind, _)| kind.ends_with(".layer.v1.tar")).unwrap().1;
        let size = found.blobs[layer].len();
        assert!(
            (1024..100_000).contains(&size),
            "{size} bytes; the image has 2 MB that are the same"
        );
        host.ok(&["tasks", "restore", "two", "example.org/saved:1"]);
        assert_eq!(host.ok(&["tasks", "exec", "two", "cat", "/mark"]), "changed\n");
        let vi = host.capstan(&["tasks", "exec", "two", "test", "-e", "/bin/vi"]);
        assert_ne!(vi.code, 0, "what it removed is back");
        for id in ["one", "two"] {
            host.remove(id);
        }
        let left = host.ok(&["snapshots", "--snapshotter", "native", "ls", "-q"]);
        assert!(!left.contains("checkpoint-"), "{left}");
        assert_no_dump(&host);
        host.assert_no_container();
    });
}

/// D85.
#[test]
fn a_terminal_is_restored() {
    let name = "checkpoint::a_terminal_is_restored";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        let count = format!("tty > /tty; {COUNT}");
        host.ok(&[
            "run",
            "-d",
            "-t",
            "--runtime",
            "runc",
            "--name",
            "one",
            &image,
            "sh",
            "-c",
            &count,
        ]);
        until_it_counts_to(&host, "one", 10);
        host.ok(&["tasks", "checkpoint", "one", "--image", "example.org/saved:1"]);
        host.ok(&["tasks", "restore", "two", "example.org/saved:1"]);
        until_it_counts_to(&host, "two", 15);
        let stdin = host.ok(&["tasks", "exec", "two", "readlink", "/proc/1/fd/0"]);
        assert_eq!(stdin, host.ok(&["tasks", "exec", "two", "cat", "/tty"]));
        assert!(stdin.starts_with("/dev/pts/"), "{stdin}");
        for id in ["one", "two"] {
            host.remove(id);
        }
        host.assert_no_container();
    });
}

/// F-211: an open connection is one of the things that CRIU does not take.
#[test]
fn a_dump_that_fails_keeps_its_log_and_leaves_the_container_alone() {
    let name = "checkpoint::a_dump_that_fails_keeps_its_log_and_leaves_the_container_alone";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        let script = "sleep 1000 | nc -l -p 99 & sleep 0.5; sleep 1000 | nc 127.0.0.1 99";
        let run = ["run", "-d", "--runtime", "runc", "--name", "web", &image, "sh", "-c", script];
        host.ok(&run);
        host.until("a connection", || {
            // 01 is ESTABLISHED.
            host.ok(&["tasks", "exec", "web", "cat", "/proc/net/tcp"]).contains(" 01 ")
        });
        let failure = host.fails(
            &["tasks", "checkpoint", "web", "--exit", "--image", "example.org/saved:1"],
            6,
            "FailedPrecondition",
            &["container web", "criu: ", "tcp-established"],
        );
        let log = failure.stderr.trim().rsplit(' ').next().unwrap();
        assert!(log.ends_with("/criu-dump.log"), "{}", failure.stderr);
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("Dumping FAILED"), "{log}");
        assert_eq!(status(&host, "web"), "running");
        assert_eq!(host.ok(&["tasks", "exec", "web", "echo", "alive"]), "alive\n");
        host.fails(&["images", "inspect", "example.org/saved:1"], 3, "NotFound", &["saved"]);
        assert_no_dump(&host);
        host.remove("web");
        host.assert_no_container();
    });
}

#[test]
fn what_cannot_be_written_down_or_restored_is_refused_before_anything_is_done() {
    let name =
        "checkpoint::what_cannot_be_written_down_or_restored_is_refused_before_anything_is_done";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        host.ok(&["run", "-d", "--runtime", "runc", "--name", "web", &image, "sleep", "1000"]);
        host.ok(&["tasks", "exec", "-d", "--exec-id", "other", "web", "sleep", "1000"]);
        let checkpoint = ["tasks", "checkpoint", "web"];
        host.fails(&checkpoint, 6, "FailedPrecondition", &["exec other runs"]);
        host.ok(&["tasks", "kill", "--signal", "KILL", "--exec-id", "other", "web"]);
        host.until("the exec is gone", || host.capstan(&checkpoint).code == 0);

        host.fails(&["tasks", "restore", "two", "example.org/none:1"], 3, "NotFound", &["none"]);
        host.fails(
            &["tasks", "restore", "two", &image],
            6,
            "FailedPrecondition",
            &["is no checkpoint"],
        );
        // A container that is there is not made by another runtime.
        host.ok(&["tasks", "checkpoint", "web", "--image", "example.org/saved:1"]);
        host.ok(&["containers", "create", "--runtime", "embedded", "other", &image]);
        host.fails(
            &["tasks", "restore", "other", "example.org/saved:1"],
            6,
            "FailedPrecondition",
            &["runtime embedded", "only runc can"],
        );
        assert_no_dump(&host);
        host.ok(&["containers", "rm", "other"]);
        host.remove("web");
        host.assert_no_container();
    });
}

/// Verifiers are asked about the name of a checkpoint as about any other.
#[test]
fn a_checkpoint_gets_no_name_that_verifiers_refuse() {
    let name = "checkpoint::a_checkpoint_gets_no_name_that_verifiers_refuse";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        let id = "verifier.digest";
        let rule = "rules = [{ images = \"registry.example/prod\" }]";
        host.configure(&format!("{}[plugins.{id:?}]\n{rule}\n", configuration()));
        host.ok(&["plugins", "reload"]);
        host.ok(&["run", "-d", "--runtime", "runc", "--name", "web", &image, "sleep", "1000"]);
        let calls = || host.json(&["plugins", "inspect", id])["calls"].as_u64().unwrap();
        let before = calls();
        let prod = ["tasks", "checkpoint", "web", "--image", "registry.example/prod:1"];
        let parts = ["registry.example/prod:1", "verifier.digest refuses it", "without a name"];
        host.fails(&prod, 8, "PermissionDenied", &parts);
        assert_eq!(calls(), before + 1);
        host.ok(&["tasks", "checkpoint", "web", "--image", "registry.example/test:1"]);
        assert_eq!(calls(), before + 2);
        host.ok(&["tasks", "checkpoint", "web"]);
        assert_eq!(calls(), before + 2, "what has no name needs nobody's leave");
        assert_eq!(host.ids(&["images", "ls"]), [image.as_str(), "registry.example/test:1"]);
        assert_eq!(status(&host, "web"), "running");
        // Whose task has ended is not lost with its name; the others, without a name, go.
        let said = host.fails(&[&prod[..], &["--exit"]].concat(), 8, "PermissionDenied", &parts);
        let index = said.stderr.split(' ').find(|word| word.starts_with("sha256:"));
        host.ok(&["gc"]);
        assert!(host.ids(&["content", "ls"]).iter().any(|digest| Some(&**digest) == index));
        assert_no_dump(&host);
        host.remove("web");
        host.assert_no_container();
    });
}

/// What a daemon that was killed left of a checkpoint goes with the next start (D19).
#[test]
fn a_dump_that_a_crash_left_is_swept() {
    let mut host = Host::new();
    host.kill();
    for dir in ["dumps/default/web/files", "restores/default/web"] {
        let dir = host.state().join("tasks.local").join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("pages-1.img"), "memory").unwrap();
    }
    host.start();
    let left =
        |name: &str| host.state().join("tasks.local").join(name).join("default/web").exists();
    host.until("they are swept", || !left("dumps") && !left("restores"));
}

/// The daemon is killed in the middle of a dump, sooner and later.
#[test]
fn a_daemon_that_is_killed_while_it_dumps_leaves_nothing_behind() {
    let name = "checkpoint::a_daemon_that_is_killed_while_it_dumps_leaves_nothing_behind";
    secluded(name, || {
        let Some((_registry, mut host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--name", "web", &image, "sh", "-c", COUNT];
        host.ok(&run);
        until_it_counts_to(&host, "web", 5);
        for millis in [10, 40, 80, 160, 320] {
            let mut client = host.command(&["tasks", "checkpoint", "web"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(millis));
            host.kill();
            client.wait().unwrap();
            host.start();
            host.until(&format!("it runs, after {millis} ms"), || {
                status(&host, "web") == "running"
            });
            let before = count(&host, "web");
            until_it_counts_to(&host, "web", before + 3);
            let left = || format!("{:?} {}", dumps(&host), host.ok(&["content", "active"]));
            host.until_or("what was left is swept", || is_swept(&host), left);
        }
        host.ok(&["tasks", "checkpoint", "web"]);
        host.remove("web");
        host.assert_no_container();
    });
}

/// The same for a restore: afterwards the container is whole, or there is none.
#[test]
fn a_daemon_that_is_killed_while_it_restores_leaves_nothing_half_made() {
    let name = "checkpoint::a_daemon_that_is_killed_while_it_restores_leaves_nothing_half_made";
    secluded(name, || {
        let Some((_registry, mut host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--name", "one", &image, "sh", "-c", COUNT];
        host.ok(&run);
        until_it_counts_to(&host, "one", 5);
        host.ok(&["tasks", "checkpoint", "one", "--exit", "--image", "example.org/saved:1"]);
        host.ok(&["tasks", "delete", "one"]);
        let restore = ["tasks", "restore", "two", "example.org/saved:1"];
        for millis in [10, 30, 60, 100, 150, 250] {
            let mut client = host.command(&restore).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(millis));
            host.kill();
            client.wait().unwrap();
            host.start();
            // A start that its shim had begun may go on; then it is running in the end.
            host.until("it is one or the other", || {
                let tasks = host.json(&["tasks", "ls"]);
                let told = tasks[0]["status"].as_str().unwrap_or("none").to_owned();
                match told.as_str() {
                    "running" => is_swept(&host),
                    "none" => {
                        is_swept(&host) && !host.ids(&["containers", "ls"]).contains(&"two".into())
                    }
                    "created" => {
                        let _ = host.capstan(&["tasks", "start", "-d", "two"]);
                        false
                    }
                    other => panic!("{other} after {millis} ms"),
                }
            });
            if host.ids(&["tasks", "ls"]).is_empty() {
                host.ok(&restore);
            }
            assert_eq!(host.ok(&["tasks", "exec", "two", "cat", "/mark"]), "changed\n");
            let before = count(&host, "two");
            until_it_counts_to(&host, "two", before + 3);
            host.remove("two");
        }
        host.ok(&["containers", "rm", "one"]);
        host.assert_no_container();
    });
}

/// The shim is killed in the middle of a restore: nothing runs on that nobody looks after.
#[test]
fn a_shim_that_is_killed_while_it_restores_leaves_no_process() {
    let name = "checkpoint::a_shim_that_is_killed_while_it_restores_leaves_no_process";
    secluded(name, || {
        let Some((_registry, host, image)) = host(name) else { return };
        let run = ["run", "-d", "--runtime", "runc", "--name", "one", &image, "sh", "-c", COUNT];
        host.ok(&run);
        until_it_counts_to(&host, "one", 5);
        host.ok(&["tasks", "checkpoint", "one", "--exit", "--image", "example.org/saved:1"]);
        host.ok(&["tasks", "delete", "one"]);
        for millis in [5, 40, 80, 120, 200] {
            let restore = ["tasks", "restore", "two", "example.org/saved:1"];
            let mut client = host.command(&restore).spawn().unwrap();
            let mut shim = None;
            host.until("a shim", || {
                let processes = std::fs::read_dir("/proc").unwrap().flatten();
                shim = processes.into_iter().find_map(|entry| {
                    let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                    let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
                    line.contains("capstan-shim\0default/two").then_some(pid)
                });
                shim.is_some()
            });
            std::thread::sleep(Duration::from_millis(millis));
            let shim = rustix::process::Pid::from_raw(shim.unwrap()).unwrap();
            rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
            client.wait().unwrap();
            let tasks = host.json(&["tasks", "ls"]);

            std::thread::sleep(Duration::from_millis(500));
            if !tasks.as_array().unwrap().is_empty() {
                host.ok(&["tasks", "delete", "--force", "two"]);
            }
            if host.ids(&["containers", "ls"]).contains(&"two".into()) {
                host.ok(&["containers", "rm", "two"]);
            }
            host.until("nothing is left of it", || host.remains().processes.is_empty());
        }
        host.ok(&["containers", "rm", "one"]);
        host.assert_no_container();
    });
}

#[test]
fn the_embedded_runtime_and_crun_say_that_they_cannot() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    for runtime in ["embedded", "crun"] {
        host.ok(&["run", "-d", "--runtime", runtime, "--name", "web", &image, "sleep", "1000"]);
        host.fails(
            &["tasks", "checkpoint", "web"],
            6,
            "FailedPrecondition",
            &[&format!("runtime {runtime} cannot"), "only runc can", "--runtime runc"],
        );
        assert_eq!(status(&host, "web"), "running");
        host.remove("web");
    }
    assert_no_dump(&host);
    host.assert_no_container();
}

/// To end such a container would be to end all others.
#[test]
fn no_container_is_made_in_the_root_cgroup() {
    let registry = DockerRegistry::with(&["busybox"]);
    let host = Host::new();
    let image = registry.reference("busybox");
    host.ok(&["images", "pull", "--plain-http", &image]);
    let spec = host.ok(&["oci", "spec", &image, "sleep", "1000"]);
    let mut spec: Value = serde_json::from_str(&spec).unwrap();
    for path in ["/", "/../", "/."] {
        spec["linux"]["cgroupsPath"] = path.into();
        let file = host.path("config.json");
        std::fs::write(&file, spec.to_string()).unwrap();
        let config = file.to_str().unwrap();
        let create = ["containers", "create", "--config", config, "web", &image];
        host.fails(&create, 5, "InvalidArgument", &["cgroup", "root"]);
    }
    host.assert_no_container();
}
