//! What comes by the thousand, or without end, costs the daemon and the shims nothing that stays.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use capstan_client::Client;
use capstan_client::schema::task_capnp::tasks;
use capstan_integration::process::{anonymous_kib, open_descriptors};

use super::{RUNTIMES, Victim};

/// CVE-2022-23471: execs with a terminal that fail. `CAPSTAN_ROUNDS` says how many.
#[test]
fn execs_that_fail_leave_nothing() {
    let rounds: u32 = std::env::var("CAPSTAN_ROUNDS")
        .map_or(200, |text| text.parse().expect("CAPSTAN_ROUNDS is a number"));
    let victim = Victim::new();
    for runtime in ["embedded", "runc"] {
        victim.start(runtime, "c", &[], &["sleep", "10000"]);
        let shim = victim.shim("c");
        let daemon = victim.host.daemon_pid();
        let look = || {
            let (of_daemon, of_shim) = (open_descriptors(daemon), open_descriptors(shim));
            ((of_daemon, of_shim), (anonymous_kib(daemon), anonymous_kib(shim)))
        };
        let fail = |count: u32| {
            let work = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&work, async {
                let client = Client::connect(&victim.host.address()).await.unwrap();
                for round in 0..count {
                    let failed = exec(&client, "c", "/does/not/exist").await;
                    assert!(failed.is_err(), "round {round}");
                }
            });
        };
        fail(20);
        std::thread::sleep(Duration::from_millis(100));
        let (descriptors, memory) = look();
        fail(rounds);
        victim.host.until("descriptors are given back", || look().0 == descriptors);
        let (_, after) = look();
        eprintln!(
            "{runtime}: {rounds} failing execs: anonymous memory of daemon and shim in KiB {memory:?}, then {after:?}"
        );
        assert!(after.0 <= memory.0 + 4096 && after.1 <= memory.1 + 256, "{memory:?} to {after:?}");
        // Nothing of them is in the task's directory either.
        let dir = victim.host.state().join("runtime.linux/tasks/default/c");
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with("exec-"), "{name} is left");
            if name == "io" {
                let mut left = std::fs::read_dir(entry.path()).unwrap().flatten();
                let other = left.find(|entry| entry.file_name() != "init");
                assert!(other.is_none(), "{other:?} is left");
            }
        }
        assert_eq!(victim.host.capstan(&["tasks", "exec", "c", "sh", "-c", "exit 4"]).code, 4);
        victim.host.remove("c");
    }
    victim.done();
}

/// Makes an exec with a terminal, and starts it.
async fn exec(client: &Client, id: &str, program: &str) -> Result<u32, capstan_client::Error> {
    let service: tasks::Client = client.open("tasks", "default");
    let mut request = service.get_request();
    request.get().set_id(id);
    let response = client.call(request.send().promise).await?;
    let task = capstan_client::check!(response.get()?)?.get_task()?;
    let mut request = task.exec_request();
    let mut process = request.get().init_process();
    process.reborrow().init_args(1).set(0, program);
    process.set_terminal(true);
    request.get().init_stdio().init_fifos().set_stdin(true);
    let response = client.call(request.send().promise).await?;
    let process = capstan_client::check!(response.get()?)?.get_process()?;
    let response = client.call(process.start_request().send().promise).await?;
    Ok(capstan_client::check!(response.get()?)?.get_pid())
}

/// CVE-2022-31030: an exec prints without end and nobody reads.
#[test]
fn output_that_nobody_reads_is_not_kept() {
    let victim = Victim::new();
    for runtime in RUNTIMES {
        victim.start(runtime, "c", &[], &["sleep", "10000"]);
        let (daemon, shim) = (victim.host.daemon_pid(), victim.shim("c"));
        let before = (anonymous_kib(daemon), anonymous_kib(shim));
        let args = ["tasks", "exec", "c", "sh", "-c", "yes | head -c 1073741824"];
        let mut exec = victim.host.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = exec.stdout.take().unwrap();
        let mut first = [0; 2];
        stdout.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"y\n");
        // From here on nobody reads.
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            let now = (anonymous_kib(daemon), anonymous_kib(shim));
            assert!(now.0 < before.0 + 8192 && now.1 < before.1 + 1024, "{before:?} to {now:?}");
        }
        victim.host.ok(&["tasks", "ls"]);
        assert_eq!(victim.run(runtime, &[], &["echo", "here"]).stdout, "here\n");
        exec.kill().unwrap();
        exec.wait().unwrap();
        victim.host.remove("c");
    }
    victim.done();
}
