//! Kind `runtime`, from `Runtime` of runtime.capnp.

use actix::{Context as Cell, Handler, ResponseFuture};
use capstan_schema::{
    ContainerId, Namespace, Result, runtime_capnp as wire, task_capnp as task_wire,
};

use crate::contract::Runtime;
use crate::contract::metrics::Sample;
use crate::contract::runtime::{
    Checkpoint, CloseStdin, Create, Delete, DeleteExec, Exec, Exit, Inspect, Kill, List, LogPiece,
    Measure, Pause, ProcessInfo, Processes, ReadLog, Resize, Restore, Resume, Start, StartExec,
    Status, StdioPaths, TaskInfo, TaskKey, Update, Wait,
};
use crate::outside::{Proxy, call};
use crate::rpc::resources::write_resources;
use crate::rpc::snapshotter::write_mounts;
use crate::rpc::tasks::write_stdio;
use crate::rpc::{length, text};

type Client = wire::runtime::Client;
type This = Proxy<Runtime>;

fn write_key(key: &TaskKey, mut out: wire::task_key::Builder<'_>) {
    out.set_namespace(key.namespace.as_str());
    out.set_id(key.id.as_str());
}

fn read_key(reader: wire::task_key::Reader<'_>) -> Result<TaskKey> {
    Ok(TaskKey {
        namespace: Namespace::parse(&text(reader.get_namespace())?)?,
        id: ContainerId::parse(&text(reader.get_id())?)?,
    })
}

fn read_exit(reader: task_wire::exit::Reader<'_>) -> Result<Exit> {
    Ok(Exit {
        status: reader.get_status(),
        at_unix_ns: reader.get_at_unix_ns(),
        lost: text(reader.get_lost())?,
        is_out_of_memory: reader.get_out_of_memory(),
    })
}

fn read_info(reader: wire::info::Reader<'_>) -> Result<TaskInfo> {
    let task = reader.get_task()?;
    Ok(TaskInfo {
        key: read_key(reader.get_key()?)?,
        pid: task.get_pid(),
        status: match task.get_status().map_err(capnp::Error::from)? {
            task_wire::Status::Created => Status::Created,
            task_wire::Status::Running => Status::Running,
            task_wire::Status::Pausing => Status::Pausing,
            task_wire::Status::Paused => Status::Paused,
            task_wire::Status::Stopped => Status::Stopped,
        },
        exit: match task.has_exit() {
            true => Some(read_exit(task.get_exit()?)?),
            false => None,
        },
        stdio: StdioPaths {
            stdin: text(task.get_stdin())?,
            stdout: text(task.get_stdout())?,
            stderr: text(task.get_stderr())?,
            attach: text(task.get_attach())?,
            log: text(task.get_log())?,
        },
        has_terminal: task.get_terminal(),
        created_at_unix_ns: task.get_created_at_unix_ns(),
        started_at_unix_ns: task.get_started_at_unix_ns(),
        shim_pid: task.get_shim_pid(),
        runtime: text(task.get_runtime())?,
        restarts: task.get_restarts(),
    })
}

/// What a message becomes on the wire, and what its answer becomes here.
macro_rules! handlers {
    ($(
        $message:ty => $reply:ty, $request:ident,
        |$value:pat_param, $params:ident| $write:expr,
        |$results:ident| $read:expr;
    )*) => {$(
        impl Handler<$message> for This {
            type Result = ResponseFuture<Result<$reply>>;
            fn handle(&mut self, $value: $message, _: &mut Cell<Self>) -> Self::Result {
                let far = self.far.clone();
                Box::pin(async move {
                    let client: Client = far.open(None).await?;
                    let mut request = client.$request();
                    {
                        let mut $params = request.get();
                        $write;
                    }
                    call!(far, request, |$results| $read)
                })
            }
        }
    )*};
}

handlers! {
    Create => TaskInfo, create_request,
    |create, params| {
        write_key(&create.key, params.reborrow().init_key());
        params.set_runtime(&create.runtime);
        params.set_spec(&create.spec);
        write_mounts(&create.rootfs, params.reborrow().init_rootfs(length(&create.rootfs)));
        params.set_terminal(create.has_terminal);
        write_stdio(&create.stdio, params.init_stdio());
    },
    |results| read_info(results.get_info()?);

    Start => u32, start_request,
    |Start(key), params| write_key(&key, params.reborrow().init_key()),
    |results| Ok(results.get_pid());

    Wait => Exit, wait_request,
    |wait, params| {
        params.set_exec_id(&wait.exec_id);
        write_key(&wait.key, params.init_key());
    },
    |results| read_exit(results.get_exit()?);

    Kill => (), kill_request,
    |kill, params| {
        params.set_exec_id(&kill.exec_id);
        params.set_signal(kill.signal);
        params.set_all(kill.is_to_all);
        write_key(&kill.key, params.init_key());
    },
    |_results| Ok(());

    Delete => Exit, delete_request,
    |delete, params| {
        params.set_force(delete.is_forced);
        params.set_keep_log(delete.is_log_kept);
        write_key(&delete.key, params.init_key());
    },
    |results| read_exit(results.get_exit()?);

    Inspect => TaskInfo, inspect_request,
    |Inspect(key), params| write_key(&key, params.reborrow().init_key()),
    |results| read_info(results.get_info()?);

    List => Vec<TaskInfo>, list_request,
    |List(namespace), params| {
        params.set_namespace(namespace.as_ref().map(Namespace::as_str).unwrap_or_default());
    },
    |results| results.get_tasks()?.iter().map(read_info).collect();

    Exec => StdioPaths, exec_request,
    |exec, params| {
        write_key(&exec.key, params.reborrow().init_key());
        params.set_exec_id(&exec.exec_id);
        params.set_process(&exec.process);
        params.set_terminal(exec.has_terminal);
        write_stdio(&exec.stdio, params.init_stdio());
    },
    |results| Ok(StdioPaths {
        stdin: text(results.get_stdin())?,
        stdout: text(results.get_stdout())?,
        stderr: text(results.get_stderr())?,
        attach: text(results.get_attach())?,
        log: String::new(),
    });

    StartExec => u32, start_exec_request,
    |start, params| {
        params.set_exec_id(&start.exec_id);
        write_key(&start.key, params.init_key());
    },
    |results| Ok(results.get_pid());

    DeleteExec => Exit, delete_exec_request,
    |delete, params| {
        params.set_exec_id(&delete.exec_id);
        write_key(&delete.key, params.init_key());
    },
    |results| read_exit(results.get_exit()?);

    Processes => Vec<ProcessInfo>, processes_request,
    |Processes(key), params| write_key(&key, params.reborrow().init_key()),
    |results| {
        let read = |process: task_wire::process_info::Reader<'_>| {
            Ok(ProcessInfo { pid: process.get_pid(), exec_id: text(process.get_exec_id())? })
        };
        results.get_processes()?.iter().map(read).collect()
    };

    Resize => (), resize_request,
    |resize, params| {
        params.set_exec_id(&resize.exec_id);
        params.set_columns(resize.columns);
        params.set_rows(resize.rows);
        write_key(&resize.key, params.init_key());
    },
    |_results| Ok(());

    CloseStdin => (), close_stdin_request,
    |close, params| {
        params.set_exec_id(&close.exec_id);
        write_key(&close.key, params.init_key());
    },
    |_results| Ok(());

    Pause => (), pause_request,
    |Pause(key), params| write_key(&key, params.reborrow().init_key()),
    |_results| Ok(());

    Resume => (), resume_request,
    |Resume(key), params| write_key(&key, params.reborrow().init_key()),
    |_results| Ok(());

    Update => (), update_request,
    |update, params| {
        write_resources(&update.resources, params.reborrow().init_resources());
        write_key(&update.key, params.init_key());
    },
    |_results| Ok(());

    Measure => Vec<Sample>, metrics_request,
    |Measure(key), params| write_key(&key, params.reborrow().init_key()),
    |results| results.get_samples()?.iter().map(Sample::read).collect();

    Checkpoint => (), checkpoint_request,
    |checkpoint, params| {
        params.set_directory(&checkpoint.directory);
        params.set_exit(checkpoint.is_exit);
        write_key(&checkpoint.key, params.init_key());
    },
    |_results| Ok(());

    Restore => TaskInfo, restore_request,
    |restore, params| {
        let create = &restore.create;
        write_key(&create.key, params.reborrow().init_key());
        params.set_runtime(&create.runtime);
        params.set_spec(&create.spec);
        write_mounts(&create.rootfs, params.reborrow().init_rootfs(length(&create.rootfs)));
        params.set_terminal(create.has_terminal);
        params.set_directory(&restore.directory);
        write_stdio(&create.stdio, params.init_stdio());
    },
    |results| read_info(results.get_info()?);

    ReadLog => LogPiece, read_log_request,
    |read, params| {
        params.set_cursor(&read.cursor);
        params.set_tail(read.tail);
        params.set_wait_millis(read.wait_millis);
        write_key(&read.key, params.init_key());
    },
    |results| Ok(LogPiece {
        data: results.get_data()?.to_vec(),
        is_raw: results.get_raw(),
        next: text(results.get_next())?,
        is_end: results.get_is_end(),
        is_missed: results.get_missed(),
    });
}
