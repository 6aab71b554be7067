//! The suite of kind `runtime`. It runs containers, so it needs root.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capstan_schema::{Class, ContainerId, Mount, Namespace, Result};
use serde_json::{Value, json};

use crate::Link;
use crate::contract::Runtime;
use crate::contract::resources::Resources;
use crate::contract::runtime::{
    CloseStdin, Create, Delete, DeleteExec, Exec, Exit, Inspect, Kill, List, Measure, ProcessInfo,
    Processes, Resize, Start, StartExec, Status, Stdio, StdioPaths, TaskInfo, TaskKey, Update,
    Wait,
};

/// How long a case may take. Each takes a second or two; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where cgroups are, in one hierarchy or in several.
const CGROUPS: &str = "/sys/fs/cgroup";

const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// What containers of the suite are made of.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// A directory with a static busybox as `/bin/busybox` and `/bin/sh`, and with `/dev` and `/proc`.
    pub rootfs: PathBuf,
    /// Cgroups of containers are made below it: `/name`.
    pub cgroup_parent: String,
}

impl Bundle {
    /// The smallest: the busybox of this machine, in `rootfs`, which is made. The cgroups of its containers, below
    /// one of this process's own, go with the guard.
    ///
    /// # Panics
    /// If there is no busybox, or the directory cannot be made.
    pub fn of_busybox(rootfs: PathBuf) -> (Self, Cgroups) {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
        let busybox = busybox.into_iter().find(|path| path.is_file());
        let busybox =
            busybox.expect("busybox is not installed: install the package busybox-static");
        for name in ["bin", "dev", "proc"] {
            fs::create_dir_all(rootfs.join(name)).expect("a directory in the bundle");
        }
        fs::copy(busybox, rootfs.join("bin/busybox")).expect("copy busybox");
        std::os::unix::fs::symlink("busybox", rootfs.join("bin/sh")).expect("a link to busybox");
        let cgroups = Cgroups(format!("capstan-test-{}", std::process::id()));
        (Self { rootfs, cgroup_parent: format!("/{}", cgroups.0) }, cgroups)
    }
}

/// Removes, when it is dropped, the cgroups below which those of containers were. A runtime does that at its end, if it
/// comes to an orderly one.
#[derive(Debug)]
pub struct Cgroups(String);

impl Drop for Cgroups {
    fn drop(&mut self) {
        // One hierarchy, or several in its place.
        let root = PathBuf::from(CGROUPS);
        let several = fs::read_dir(&root).into_iter().flatten().flatten();
        for hierarchy in several.map(|entry| entry.path()).chain([root]) {
            let parent = hierarchy.join(&self.0);
            for namespace in fs::read_dir(&parent).into_iter().flatten().flatten() {
                // It fails for files, which go with their directory.
                let _ = fs::remove_dir(namespace.path());
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

/// One case with a runtime under test.
struct Suite {
    link: Link<Runtime>,
    bundle: Bundle,
    namespace: Namespace,
}

/// Runs all cases, each in a namespace of its own.
///
/// # Panics
/// If a case fails, hangs, or leaves something.
pub async fn run(link: &Link<Runtime>, bundle: &Bundle) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            let name = stringify!($case).replace('_', "-");
            let suite = Suite {
                link: link.clone(),
                bundle: bundle.clone(),
                namespace: Namespace::parse(&name).expect("a case has a name"),
            };
            let case = tokio::time::timeout(PATIENCE, Box::pin(suite.$case()));
            assert!(case.await.is_ok(), "{name} does not come to an end");
            suite.check_remains().await;
        )*};
    }
    cases![
        life,
        taken_key,
        second_start,
        killed,
        killed_altogether,
        deleted_while_it_runs,
        deleted_before_start,
        unknown_key,
        unknown_exec,
        execs,
        killed_exec,
        exec_when_stopped,
        wait_after_the_fact,
        waits_at_once,
        lists,
        no_such_command,
        no_such_runtime,
        limits,
        numbers,
    ];
}

fn class<T: std::fmt::Debug>(result: Result<T>) -> Class {
    result.expect_err("it must fail").class()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn process(args: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
    })
}

fn shell(script: &str) -> Vec<&str> {
    vec!["/bin/sh", "-c", script]
}

/// Runs until it is killed.
const FOREVER: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];

impl Suite {
    fn key(&self, id: &str) -> TaskKey {
        let id = ContainerId::parse(id).expect("a case gives good ids");
        TaskKey { namespace: self.namespace.clone(), id }
    }

    fn spec(&self, key: &TaskKey, args: &[&str]) -> Value {
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.0.2",
            "process": process(args),
            "root": { "path": "rootfs" },
            "hostname": "conformance",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                {
                    "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "mode=755"],
                },
            ],
            "linux": {
                "cgroupsPath": format!("{}/{key}", self.bundle.cgroup_parent),
                "namespaces": namespaces,
            },
        })
    }

    fn new_task(&self, key: &TaskKey, args: &[&str]) -> Create {
        let spec = serde_json::to_vec(&self.spec(key, args)).expect("a JSON value is JSON");
        let root = Mount {
            kind: "bind".into(),
            source: self.bundle.rootfs.to_string_lossy().into_owned(),
            options: vec!["rbind".into(), "rw".into()],
        };
        Create {
            key: key.clone(),
            runtime: String::new(),
            spec: spec.into(),
            rootfs: vec![root],
            stdio: Stdio::Null,
            has_terminal: false,
        }
    }

    async fn create(&self, key: &TaskKey, args: &[&str]) -> Result<TaskInfo> {
        self.link.send(self.new_task(key, args)).await
    }

    async fn start(&self, key: &TaskKey) -> Result<u32> {
        self.link.send(Start(key.clone())).await
    }

    /// A task that runs.
    async fn running(&self, id: &str, args: &[&str]) -> TaskKey {
        let key = self.key(id);
        self.create(&key, args).await.expect("create");
        self.start(&key).await.expect("start");
        key
    }

    async fn wait(&self, key: &TaskKey, exec_id: &str) -> Result<Exit> {
        self.link.send(Wait { key: key.clone(), exec_id: exec_id.into() }).await
    }

    async fn kill(&self, key: &TaskKey, exec_id: &str, signal: u32) -> Result<()> {
        let (key, exec_id) = (key.clone(), exec_id.into());
        self.link.send(Kill { key, exec_id, signal, is_to_all: false }).await
    }

    async fn delete(&self, key: &TaskKey) -> Result<Exit> {
        self.link.send(Delete { key: key.clone(), is_forced: false, is_log_kept: false }).await
    }

    async fn delete_by_force(&self, key: &TaskKey) -> Result<Exit> {
        self.link.send(Delete { key: key.clone(), is_forced: true, is_log_kept: false }).await
    }

    async fn inspect(&self, key: &TaskKey) -> Result<TaskInfo> {
        self.link.send(Inspect(key.clone())).await
    }

    async fn exec(&self, key: &TaskKey, exec_id: &str, args: &[&str]) -> Result<StdioPaths> {
        let process = serde_json::to_vec(&process(args)).expect("a JSON value is JSON");
        let message = Exec {
            key: key.clone(),
            exec_id: exec_id.into(),
            process: process.into(),
            stdio: Stdio::Null,
            has_terminal: false,
        };
        self.link.send(message).await
    }

    async fn start_exec(&self, key: &TaskKey, exec_id: &str) -> Result<u32> {
        self.link.send(StartExec { key: key.clone(), exec_id: exec_id.into() }).await
    }

    async fn delete_exec(&self, key: &TaskKey, exec_id: &str) -> Result<Exit> {
        self.link.send(DeleteExec { key: key.clone(), exec_id: exec_id.into() }).await
    }

    async fn processes(&self, key: &TaskKey) -> Result<Vec<ProcessInfo>> {
        self.link.send(Processes(key.clone())).await
    }

    /// Ids of tasks in a namespace, or the keys of all.
    async fn ids(&self, namespace: Option<Namespace>) -> Vec<String> {
        let tasks = self.link.send(List(namespace.clone())).await.expect("list");
        let name = |info: TaskInfo| match namespace {
            Some(_) => info.key.id.to_string(),
            None => info.key.to_string(),
        };
        tasks.into_iter().map(name).collect()
    }

    /// The case is over: no task and no cgroup of it is there.
    async fn check_remains(&self) {
        let left = self.ids(Some(self.namespace.clone())).await;
        assert!(left.is_empty(), "{} leaves tasks: {left:?}", self.namespace);
        let hierarchies = fs::read_dir(CGROUPS).expect("list cgroups").flatten();
        let hierarchies = hierarchies.map(|entry| entry.path()).chain([CGROUPS.into()]);
        let below = format!("{}/{}", self.bundle.cgroup_parent, self.namespace);
        for hierarchy in hierarchies {
            // Files are cgroups of processes, and directories of containers.
            let Ok(list) = fs::read_dir(hierarchy.join(below.trim_start_matches('/'))) else {
                continue;
            };
            let mut left = list.flatten().filter(|entry| entry.path().is_dir());
            let left = left.next().map(|entry| entry.path());
            assert!(left.is_none(), "{} leaves cgroup {left:?}", self.namespace);
        }
    }

    async fn life(&self) {
        let key = self.key("a");
        let made = self.create(&key, &shell("exit 7")).await.expect("create");
        assert_eq!((&made.key, made.status), (&key, Status::Created));
        assert!(made.pid > 0 && is_alive(made.pid), "init waits: {made:?}");
        assert!(made.created_at_unix_ns > 0 && made.started_at_unix_ns == 0, "{made:?}");
        let seen = self.inspect(&key).await.expect("inspect");
        assert_eq!((seen.status, seen.pid, seen.exit), (Status::Created, made.pid, None));
        assert_eq!(self.start(&key).await.expect("start"), made.pid);
        let exit = self.wait(&key, "").await.expect("wait");
        assert_eq!((exit.status, exit.lost.as_str()), (7, ""));
        assert!(exit.at_unix_ns >= made.created_at_unix_ns, "{exit:?}");
        let seen = self.inspect(&key).await.expect("inspect");
        assert_eq!((seen.status, seen.exit.as_ref()), (Status::Stopped, Some(&exit)));
        assert!(seen.started_at_unix_ns >= seen.created_at_unix_ns, "{seen:?}");
        assert!(self.processes(&key).await.expect("processes").is_empty());
        assert_eq!(self.delete(&key).await.expect("delete"), exit);
        assert_eq!(class(self.inspect(&key).await), Class::NotFound);
        assert!(!is_alive(made.pid), "init is still there");
        // The key is free again.
        let key = self.running("a", &shell("exit 0")).await;
        assert_eq!(self.wait(&key, "").await.expect("wait").status, 0);
        self.delete(&key).await.expect("delete");
    }

    async fn taken_key(&self) {
        let key = self.running("a", &FOREVER).await;
        assert_eq!(class(self.create(&key, &FOREVER).await), Class::AlreadyExists);
        assert_eq!(self.inspect(&key).await.expect("inspect").status, Status::Running);
        self.delete_by_force(&key).await.expect("delete");
        // Of two at once one wins.
        let (one, other) = futures::join!(self.create(&key, &FOREVER), self.create(&key, &FOREVER));
        let lost = if one.is_ok() { other } else { one };
        assert_eq!(class(lost), Class::AlreadyExists);
        self.delete_by_force(&key).await.expect("delete");
    }

    async fn second_start(&self) {
        let key = self.running("a", &FOREVER).await;
        assert_eq!(class(self.start(&key).await), Class::FailedPrecondition);
        self.kill(&key, "", SIGKILL).await.expect("kill");
        self.wait(&key, "").await.expect("wait");
        assert_eq!(class(self.start(&key).await), Class::FailedPrecondition);
        self.delete(&key).await.expect("delete");
    }

    async fn killed(&self) {
        let key = self.running("a", &FOREVER).await;
        let pid = self.inspect(&key).await.expect("inspect").pid;
        let processes = self.processes(&key).await.expect("processes");
        assert_eq!(processes, [ProcessInfo { pid, exec_id: "init".into() }]);
        self.kill(&key, "", SIGKILL).await.expect("kill");
        assert_eq!(self.wait(&key, "").await.expect("wait").status, 137);
        assert_eq!(class(self.kill(&key, "", SIGKILL).await), Class::FailedPrecondition);
        assert_eq!(self.delete(&key).await.expect("delete").status, 137);
    }

    async fn killed_altogether(&self) {
        let key = self.running("a", &FOREVER).await;
        self.exec(&key, "b", &FOREVER).await.expect("exec");
        self.start_exec(&key, "b").await.expect("start the exec");
        let (key_to_kill, exec_id) = (key.clone(), String::new());
        let kill = Kill { key: key_to_kill, exec_id, signal: SIGKILL, is_to_all: true };
        self.link.send(kill).await.expect("kill all");
        assert_eq!(self.wait(&key, "b").await.expect("wait for the exec").status, 137);
        assert_eq!(self.wait(&key, "").await.expect("wait").status, 137);
        self.delete(&key).await.expect("delete");
    }

    async fn deleted_while_it_runs(&self) {
        let key = self.running("a", &FOREVER).await;
        assert_eq!(class(self.delete(&key).await), Class::FailedPrecondition);
        let info = self.inspect(&key).await.expect("it is still there");
        assert_eq!(info.status, Status::Running);
        assert_eq!(self.delete_by_force(&key).await.expect("delete").status, 137);
        assert!(!is_alive(info.pid), "init is still there");
        assert_eq!(class(self.inspect(&key).await), Class::NotFound);
    }

    async fn deleted_before_start(&self) {
        let key = self.key("a");
        let pid = self.create(&key, &FOREVER).await.expect("create").pid;
        self.delete_by_force(&key).await.expect("delete");
        assert!(!is_alive(pid), "init is still there");
        assert_eq!(class(self.start(&key).await), Class::NotFound);
    }

    async fn unknown_key(&self) {
        let there = self.running("there", &FOREVER).await;
        let key = self.key("gone");
        let check = |what: &str, found: Class| assert_eq!(found, Class::NotFound, "{what}");
        check("start", class(self.start(&key).await));
        check("wait", class(self.wait(&key, "").await));
        check("kill", class(self.kill(&key, "", SIGTERM).await));
        check("delete", class(self.delete(&key).await));
        check("delete by force", class(self.delete_by_force(&key).await));
        check("inspect", class(self.inspect(&key).await));
        check("exec", class(self.exec(&key, "b", &FOREVER).await));
        check("start an exec", class(self.start_exec(&key, "b").await));
        check("delete an exec", class(self.delete_exec(&key, "b").await));
        check("processes", class(self.processes(&key).await));
        let exec_id = String::new();
        let resize = Resize { key: key.clone(), exec_id, columns: 80, rows: 25 };
        check("resize", class(self.link.send(resize).await));
        let close = CloseStdin { key: key.clone(), exec_id: String::new() };
        check("close stdin", class(self.link.send(close).await));
        let resources = Resources { pids_limit: 5, ..Resources::default() };
        check("update", class(self.update(&key, resources).await));
        check("measure", class(self.link.send(Measure(key.clone())).await));
        // The same id in another namespace is another task.
        let namespace = Namespace::parse("somewhere-else").expect("a namespace");
        let elsewhere = TaskKey { namespace, ..there.clone() };
        check("inspect elsewhere", class(self.inspect(&elsewhere).await));
        self.delete_by_force(&there).await.expect("delete");
    }

    async fn update(&self, key: &TaskKey, resources: Resources) -> Result<()> {
        self.link.send(Update { key: key.clone(), resources }).await
    }

    async fn limits(&self) {
        let key = self.running("a", &FOREVER).await;
        let processes = Resources { pids_limit: 5, ..Resources::default() };
        match self.update(&key, processes.clone()).await {
            Ok(()) => {}
            // Not every machine has a controller for them.
            Err(error) => assert_eq!(error.class(), Class::FailedPrecondition, "{error}"),
        }
        // Nothing to change is no mistake.
        self.update(&key, Resources::default()).await.expect("update nothing");
        let wrong = Resources { cpuset_cpus: "none".into(), ..processes.clone() };
        let refused = class(self.update(&key, wrong).await);
        assert!(
            matches!(refused, Class::InvalidArgument | Class::FailedPrecondition),
            "{refused:?}"
        );
        self.kill(&key, "", SIGKILL).await.expect("kill");
        self.wait(&key, "").await.expect("wait");
        assert_eq!(class(self.update(&key, processes).await), Class::FailedPrecondition);
        self.delete(&key).await.expect("delete");
    }

    async fn numbers(&self) {
        let key = self.running("a", &FOREVER).await;
        let mut seen = BTreeSet::new();
        for sample in self.link.send(Measure(key.clone())).await.expect("measure") {
            sample.check().expect("a sound sample");
            let label = |name: &str| {
                sample
                    .labels
                    .iter()
                    .find(|(label, _)| label == name)
                    .map(|(_, value)| value.as_str())
            };
            assert_eq!(label("id"), Some(key.id.as_str()), "{sample:?}");
            assert_eq!(label("namespace"), Some(key.namespace.as_str()), "{sample:?}");
            let (name, mut labels) = (sample.name, sample.labels);
            labels.sort();
            assert!(seen.insert((name.clone(), labels)), "{name} is there twice");
        }
        self.delete_by_force(&key).await.expect("delete");
    }

    async fn unknown_exec(&self) {
        let key = self.running("a", &FOREVER).await;
        let check = |what: &str, found: Class| assert_eq!(found, Class::NotFound, "{what}");
        check("start", class(self.start_exec(&key, "b").await));
        check("wait", class(self.wait(&key, "b").await));
        check("kill", class(self.kill(&key, "b", SIGTERM).await));
        check("delete", class(self.delete_exec(&key, "b").await));
        self.delete_by_force(&key).await.expect("delete");
    }

    async fn execs(&self) {
        let key = self.running("a", &FOREVER).await;
        let paths = self.exec(&key, "b", &shell("exit 3")).await.expect("exec");
        assert_eq!(paths, StdioPaths::default(), "without streams there are no files");
        assert_eq!(class(self.exec(&key, "b", &FOREVER).await), Class::AlreadyExists);
        self.exec(&key, "c", &shell("exit 4")).await.expect("another exec");
        let pid = self.start_exec(&key, "b").await.expect("start an exec");
        assert!(pid > 0);
        // Who waits beforehand misses nothing.
        let (early, started) = futures::join!(self.wait(&key, "c"), self.start_exec(&key, "c"));
        started.expect("start another");
        assert_eq!(early.expect("wait before the start").status, 4);
        let exit = self.wait(&key, "b").await.expect("wait for an exec");
        assert_eq!((exit.status, exit.lost.as_str()), (3, ""));
        assert_eq!(self.wait(&key, "c").await.expect("wait for another").status, 4);
        assert_eq!(class(self.start_exec(&key, "b").await), Class::FailedPrecondition);
        assert_eq!(self.wait(&key, "b").await.expect("wait once more"), exit);
        assert_eq!(self.delete_exec(&key, "b").await.expect("delete an exec"), exit);
        assert_eq!(class(self.delete_exec(&key, "b").await), Class::NotFound);
        // The id is free again. The command is looked for when it starts.
        self.exec(&key, "b", &["/bin/no-such-command"]).await.expect("exec");
        let (early, started) = futures::join!(self.wait(&key, "b"), self.start_exec(&key, "b"));
        assert_eq!((class(early), class(started)), (Class::NotFound, Class::NotFound));
        assert_eq!(self.inspect(&key).await.expect("inspect").status, Status::Running);
        self.delete_by_force(&key).await.expect("delete");
    }

    async fn killed_exec(&self) {
        let key = self.running("a", &FOREVER).await;
        self.exec(&key, "b", &FOREVER).await.expect("exec");
        let pid = self.start_exec(&key, "b").await.expect("start an exec");
        let processes = self.processes(&key).await.expect("processes");
        let exec = ProcessInfo { pid, exec_id: "b".into() };
        assert!(processes.contains(&exec), "{exec:?} is not in {processes:?}");
        assert_eq!(class(self.delete_exec(&key, "b").await), Class::FailedPrecondition);
        self.kill(&key, "b", SIGKILL).await.expect("kill an exec");
        assert_eq!(self.wait(&key, "b").await.expect("wait for an exec").status, 137);
        assert_eq!(class(self.kill(&key, "b", SIGKILL).await), Class::FailedPrecondition);
        assert_eq!(self.inspect(&key).await.expect("inspect").status, Status::Running);
        self.delete_by_force(&key).await.expect("delete");
    }

    async fn exec_when_stopped(&self) {
        let key = self.key("a");
        self.create(&key, &shell("exit 0")).await.expect("create");
        assert_eq!(class(self.exec(&key, "b", &FOREVER).await), Class::FailedPrecondition);
        self.start(&key).await.expect("start");
        self.wait(&key, "").await.expect("wait");
        assert_eq!(class(self.exec(&key, "b", &FOREVER).await), Class::FailedPrecondition);
        self.delete(&key).await.expect("delete");
    }

    async fn wait_after_the_fact(&self) {
        let key = self.running("a", &shell("exit 9")).await;
        let exit = self.wait(&key, "").await.expect("wait");
        // Something else happens meanwhile.
        let other = self.running("b", &shell("exit 0")).await;
        self.wait(&other, "").await.expect("wait for another");
        self.delete(&other).await.expect("delete another");
        for _ in 0..3 {
            assert_eq!(self.wait(&key, "").await.expect("wait again"), exit);
        }
        assert_eq!(exit.status, 9);
        self.delete(&key).await.expect("delete");
    }

    async fn waits_at_once(&self) {
        let key = self.key("a");
        self.create(&key, &FOREVER).await.expect("create");
        let end = async {
            self.start(&key).await.expect("start");
            self.kill(&key, "", SIGKILL).await.expect("kill");
        };
        let (one, other, ()) = futures::join!(self.wait(&key, ""), self.wait(&key, ""), end);
        let exit = one.expect("wait");
        assert_eq!((exit.status, &exit), (137, &other.expect("wait as well")));
        self.delete(&key).await.expect("delete");
    }

    async fn lists(&self) {
        let namespace = Namespace::parse(&format!("{}-b", self.namespace)).expect("a namespace");
        let other = Self { link: self.link.clone(), bundle: self.bundle.clone(), namespace };
        let mut keys = Vec::new();
        for (suite, id) in [(self, "b"), (self, "a"), (&other, "c")] {
            keys.push(suite.key(id));
            suite.create(&suite.key(id), &FOREVER).await.expect("create");
        }
        let mut ids = self.ids(Some(self.namespace.clone())).await;
        ids.sort();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(other.ids(Some(other.namespace.clone())).await, ["c"]);
        let all = self.ids(None).await;
        for key in &keys {
            assert!(all.contains(&key.to_string()), "{key} is not in {all:?}");
            self.delete_by_force(key).await.expect("delete");
        }
        other.check_remains().await;
    }

    /// Some runtimes look for the command when they create the container, some when they start it.
    async fn no_such_command(&self) {
        let key = self.key("a");
        match self.create(&key, &["/bin/no-such-command"]).await {
            Ok(_) => {
                assert_eq!(class(self.start(&key).await), Class::NotFound);
                self.delete_by_force(&key).await.expect("delete");
            }
            refused => assert_eq!(class(refused), Class::NotFound),
        }
        assert_eq!(class(self.inspect(&key).await), Class::NotFound);
    }

    async fn no_such_runtime(&self) {
        let key = self.key("a");
        let create = Create { runtime: "no-such".into(), ..self.new_task(&key, &FOREVER) };
        assert_eq!(class(self.link.send(create).await), Class::NotFound);
        assert_eq!(class(self.inspect(&key).await), Class::NotFound);
    }
}
