//! Streams that a process has itself: FIFOs, as a client of the interface asks for them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use capstan_client::schema::Class;
use capstan_client::schema::task_capnp::{process, task, tasks};
use capstan_client::{Client, Error, check};

use capstan_integration::process::{anonymous_kib, open_descriptors};

use super::{Bench, RUNTIMES};

type Result<T> = std::result::Result<T, Error>;

/// How long a process is given to do what it must not do.
const WHILE: Duration = Duration::from_millis(500);

/// Paths of FIFOs: of stdin, stdout and stderr.
type Paths = [String; 3];

fn text(reader: capnp::text::Reader<'_>) -> String {
    reader.to_string().unwrap()
}

/// Makes the task of a container, with FIFOs or with nothing.
async fn create(client: &Client, id: &str, fifos: Option<bool>) -> Result<(task::Client, Paths)> {
    let service: tasks::Client = client.open("tasks", "default");
    let mut request = service.create_request();
    request.get().set_container(id);
    match fifos {
        Some(stdin) => request.get().init_stdio().init_fifos().set_stdin(stdin),
        None => request.get().init_stdio().set_null(()),
    }
    let response = client.call(request.send().promise).await?;
    let made = check!(response.get()?)?;
    let info = made.get_info()?;
    let paths = [text(info.get_stdin()?), text(info.get_stdout()?), text(info.get_stderr()?)];
    Ok((made.get_task()?, paths))
}

/// What a call that is under way says at last.
macro_rules! told {
    ($call:expr, |$out:ident| $value:expr) => {
        match $call.await {
            Ok(response) => check!(response.get().unwrap()).map(|$out| $value),
            Err(error) => Err(Error::from(error)),
        }
    };
}

/// Sends a request, and answers what it says.
macro_rules! ask {
    ($client:expr, $request:expr, |$out:ident| $value:expr) => {
        told!($client.call($request.send().promise), |$out| $value)
    };
}

/// The task of a container.
async fn task_of(client: &Client, id: &str) -> task::Client {
    let service: tasks::Client = client.open("tasks", "default");
    let mut request = service.get_request();
    request.get().set_id(id);
    ask!(client, request, |out| out.get_task().unwrap()).unwrap()
}

fn with_client(bench: &Bench, work: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        work(Client::connect(&bench.host.address()).await.unwrap()).await;
    });
}

/// Reads a FIFO to its end, in a thread.
fn reader(path: &str) -> std::thread::JoinHandle<Vec<u8>> {
    let mut file = File::open(path).unwrap();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        all
    })
}

/// Joins without holding up the connection.
async fn joined(thread: std::thread::JoinHandle<Vec<u8>>) -> Vec<u8> {
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap()
}

/// F-193, F-196, F-197, F-198, F-264: nobody needs to be there; who comes later gets all; the end of the input is
/// told; each stream is one; and nothing of them stays.
#[test]
fn a_process_has_fifos_of_its_own() {
    let bench = Bench::new();
    for runtime in RUNTIMES {
        let script = "seq 1 30000; echo err >&2; cat; exit 3";
        let flags = ["--runtime", runtime];
        bench.host.ok(&bench.args(&["containers", "create", "x"], &flags, script));
        with_client(&bench, async |client| {
            // Nobody has opened any.
            let (task, [stdin, stdout, stderr]) = create(&client, "x", Some(true)).await.unwrap();
            ask!(client, task.start_request(), |_out| ()).unwrap();
            tokio::time::sleep(WHILE).await;
            assert_eq!(bench.status("x"), "running", "it waits for a reader");
            // One takes a little and goes: the rest is the next one's.
            let mut first = vec![0; 8];
            let open = OpenOptions::new().read(true).open(&stdout);
            open.unwrap().read_exact(&mut first).unwrap();
            let (output, errors) = (reader(&stdout), reader(&stderr));
            let mut input = OpenOptions::new().write(true).open(&stdin).unwrap();
            input.write_all(b"typed\n").unwrap();
            drop(input);
            tokio::time::sleep(WHILE).await;
            assert_eq!(bench.status("x"), "running", "another client may have more to say");
            ask!(client, task.close_stdin_request(), |_out| ()).unwrap();
            let status =
                ask!(client, task.wait_request(), |out| out.get_exit().unwrap().get_status());
            assert_eq!(status.unwrap(), 3, "{runtime}");
            // What was read by nobody until the end of the process is there all the same.
            let all = [first, joined(output).await].concat();
            let want: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
            assert_eq!(String::from_utf8(all).unwrap(), want + "typed\n", "{runtime}");
            assert_eq!(joined(errors).await, b"err\n");
            ask!(client, task.delete_request(), |_out| ()).unwrap();
            assert!(!fs::exists(&stdout).unwrap(), "they go with the task");
        });
        bench.host.ok(&["containers", "rm", "x"]);
    }
    bench.host.assert_no_container();
}

/// The same for an exec, whose end may be waited for before it starts (F-205).
#[test]
fn an_exec_has_fifos_of_its_own() {
    let bench = Bench::new();
    bench.run("x", &[], "sleep 1000");
    with_client(&bench, async |client| {
        let task = task_of(&client, "x").await;
        let mut request = task.exec_request();
        let mut wanted = request.get().init_process();
        let mut args = wanted.reborrow().init_args(3);
        for (index, word) in (0..).zip(["sh", "-c", "cat; echo more >&2; exit 5"]) {
            args.set(index, word);
        }
        request.get().init_stdio().init_fifos().set_stdin(true);
        let response = client.call(request.send().promise).await.unwrap();
        let made = check!(response.get().unwrap()).unwrap();
        let exec: process::Client = made.get_process().unwrap();
        let paths = [made.get_stdin(), made.get_stdout(), made.get_stderr()];
        let [stdin, stdout, stderr] = paths.map(|path| text(path.unwrap()));
        let (output, errors) = (reader(&stdout), reader(&stderr));
        ask!(client, exec.start_request(), |out| assert!(out.get_pid() > 0)).unwrap();
        let mut input = OpenOptions::new().write(true).open(&stdin).unwrap();
        input.write_all(&[b'x'; 200_000]).unwrap();
        drop(input);
        ask!(client, exec.close_stdin_request(), |_out| ()).unwrap();
        let status = ask!(client, exec.wait_request(), |out| out.get_exit().unwrap().get_status());
        assert_eq!(status.unwrap(), 5);
        assert_eq!(joined(output).await, [b'x'; 200_000]);
        assert_eq!(joined(errors).await, b"more\n");
    });
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// Execs whose maker goes before they start leave no stream with the shim, and no command with the daemon.
#[test]
fn an_exec_that_nobody_starts_goes_with_its_maker() {
    const EXECS: usize = 100;
    let bench = Bench::new();
    bench.run("x", &[], "sleep 1000");
    let (shim, daemon) = (bench.pid("x", "shimPid"), bench.host.daemon_pid());
    // Long, so that it is seen if they are kept.
    let word = "w".repeat(100_000);
    let make = || {
        with_client(&bench, async |client| {
            let task = task_of(&client, "x").await;
            let mut kept = Vec::new();
            for _ in 0..EXECS {
                let mut request = task.exec_request();
                request.get().init_process().init_args(1).set(0, &word);
                request.get().init_stdio().init_fifos().set_stdin(true);
                kept.push(ask!(client, request, |out| out.get_process().unwrap()).unwrap());
            }
            assert!(open_descriptors(shim) > EXECS, "they are there");
        });
    };
    let before = open_descriptors(shim);
    let io = bench.host.state().join("runtime.linux/tasks/default/x/io");
    let is_gone = || {
        let names = fs::read_dir(&io).unwrap().flatten().map(|entry| entry.file_name());
        open_descriptors(shim) <= before && names.into_iter().all(|name| name == "init")
    };
    make();
    bench.host.until("all of the first are gone", is_gone);
    let memory = anonymous_kib(daemon);
    for _ in 0..4 {
        make();
        bench.host.until("all are gone", is_gone);
    }
    let after = anonymous_kib(daemon);
    assert!(after < memory + 16_384, "{memory} to {after} KiB");
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// An exec that the runtime has started does not run on when nobody can have its terminal; and one that is just being
/// started is neither started once more nor deleted, as it would run on too.
#[test]
fn no_exec_runs_without_anybody_who_knows_it() {
    let mut bench = Bench::new();
    // A runtime that forgets the terminal, and takes its time.
    let runtime = bench.host.path("forgetful");
    let script = "#!/bin/bash\n\
        words=()\n\
        while [ $# -gt 0 ]; do\n\
            case $1 in\n\
                exec) sleep 1; words+=($1) ;;\n\
                --console-socket) shift ;;\n\
                --process) sed -i 's/\"terminal\": *true/\"terminal\":false/' $2; words+=($1) ;;\n\
                *) words+=($1) ;;\n\
            esac\n\
            shift\n\
        done\n\
        exec runc ${words[@]}\n";
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    bench.host.stop();
    bench.host.configure(&format!(
        "[plugins.\"runtime.linux\".runtimes.forgetful]\nbinary = {runtime:?}\n"
    ));
    bench.host.start();
    bench.run("x", &["--runtime", "forgetful"], "sleep 1000");
    let processes = || bench.host.ok(&["tasks", "ps", "x"]).lines().count() - 1;
    assert_eq!(processes(), 1);
    with_client(&bench, async |client| {
        let task = task_of(&client, "x").await;
        let exec = async |has_terminal: bool| -> process::Client {
            let mut request = task.exec_request();
            let mut wanted = request.get().init_process();
            wanted.set_terminal(has_terminal);
            let mut args = wanted.init_args(2);
            args.set(0, "sleep");
            args.set(1, "1000");
            request.get().init_stdio().init_fifos().set_stdin(true);
            ask!(client, request, |out| out.get_process().unwrap()).unwrap()
        };
        let refused = ask!(client, exec(true).await.start_request(), |_out| ()).unwrap_err();
        assert!(refused.to_string().contains("terminal"), "{refused}");
        bench.host.until("it is gone", || processes() == 1);

        // Who waits for its end beforehand hears of it (F-205).
        let other = exec(false).await;
        let wait = client.call(other.wait_request().send().promise);
        let start = client.call(other.start_request().send().promise);
        let early = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let again = ask!(client, other.start_request(), |_out| ()).unwrap_err();
            [again, ask!(client, other.delete_request(), |_out| ()).unwrap_err()]
        };
        let start = async { told!(start, |out| out.get_pid()) };
        let (started, early) = tokio::join!(start, early);
        for refused in early {
            assert_eq!(refused.class(), Class::FailedPrecondition, "{refused}");
        }
        assert!(started.unwrap() > 0);
        let mut request = other.kill_request();
        request.get().set_signal(9);
        ask!(client, request, |_out| ()).unwrap();
        let status = told!(wait, |out| out.get_exit().unwrap().get_status());
        assert_eq!(status.unwrap(), 137);
        ask!(client, other.delete_request(), |_out| ()).unwrap();
        // And that it never will run.
        let other = exec(false).await;
        let wait = client.call(other.wait_request().send().promise);
        ask!(client, other.delete_request(), |_out| ()).unwrap();
        let error = told!(wait, |_out| ()).unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
    });
    bench.host.remove("x");
    bench.host.assert_no_container();
}

/// D81, D82, F-201: a process without streams has none that could be closed, and none that could have a size; to ask
/// for it costs nobody anything.
#[test]
fn what_a_process_has_not_is_asked_for_in_vain() {
    let bench = Bench::new();
    bench.host.ok(&bench.args(&["containers", "create", "x"], &[], "cat; sleep 1000"));
    with_client(&bench, async |client| {
        let (task, paths) = create(&client, "x", None).await.unwrap();
        assert_eq!(paths, ["", "", ""]);
        // A wait that comes first does not miss the end (F-205).
        let wait = client.call(task.wait_request().send().promise);
        for _ in 0..2 {
            ask!(client, task.close_stdin_request(), |_out| ()).unwrap();
            ask!(client, task.start_request(), |_out| ()).ok();
        }
        let refused = ask!(client, task.resize_request(), |_out| ()).unwrap_err();
        assert_eq!(refused.class(), Class::FailedPrecondition, "{refused}");
        assert_eq!(bench.status("x"), "running");
        let mut request = task.kill_request();
        request.get().set_signal(9);
        ask!(client, request, |_out| ()).unwrap();
        let status = told!(wait, |out| out.get_exit().unwrap().get_status());
        assert_eq!(status.unwrap(), 137);
        // What has ended has no streams either.
        ask!(client, task.close_stdin_request(), |_out| ()).unwrap();
        ask!(client, task.delete_request(), |_out| ()).unwrap();
        let gone = ask!(client, task.close_stdin_request(), |_out| ()).unwrap_err();
        assert_eq!(gone.class(), Class::NotFound, "{gone}");
    });
    bench.host.ok(&["containers", "rm", "x"]);
    bench.host.assert_no_container();
}
