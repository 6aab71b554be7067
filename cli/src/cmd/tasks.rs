//! `capstan tasks`.

use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::task_capnp::{Status, process_info, task, tasks};
use capstan_client::schema::write_texts;
use clap::{Args, Subcommand};

use crate::cmd::filter::Ls;
use crate::cmd::foreground::{DetachFlag, DetachKeys, Foreground, Parted, Target, Wish};
use crate::cmd::images::full_name;
use crate::cmd::limits::LimitFlags;
use crate::cmd::logs::Logs;
use crate::cmd::run::parted;
use crate::cmd::streams::{LogFlags, Streams};
use crate::cmd::{metrics, signal};
use crate::exit::{Failure, Outcome};
use crate::print::{self, Listing};
use crate::session::{Session, call};

#[derive(Debug, Subcommand)]
pub(crate) enum Tasks {
    /// Make a container's init process, which waits for `start`
    Create {
        id: String,
        /// Let clients that attach write to its stdin
        #[arg(short, long)]
        interactive: bool,
        #[command(flatten)]
        log: LogFlags,
    },
    /// Start a container, in the foreground unless -d is given
    Start {
        id: String,
        /// Leave it running
        #[arg(short, long)]
        detach: bool,
        /// Pass stdin on
        #[arg(short, long)]
        interactive: bool,
        #[command(flatten)]
        log: LogFlags,
        #[command(flatten)]
        keys: DetachFlag,
    },
    /// Follow the streams of a task that runs, and exit with its status; as many clients as like
    Attach {
        id: String,
        /// Do not pass stdin on
        #[arg(long)]
        no_stdin: bool,
        #[command(flatten)]
        keys: DetachFlag,
    },
    /// Print what a task wrote that was started with -d or --log-file
    Logs(Logs),
    /// Freeze all processes of a container
    Pause { id: String },
    /// Let a paused container go on
    Resume { id: String },
    /// List tasks
    Ls(Ls),
    /// Show a task, as JSON
    Inspect { id: String },
    /// List the processes in a container
    Ps { id: String },
    /// Run another process in a container
    Exec(Exec),
    /// Send a signal
    Kill {
        id: String,
        /// Name or number
        #[arg(short, long, default_value = "TERM")]
        signal: String,
        /// To all processes in the container
        #[arg(short, long, conflicts_with = "exec_id")]
        all: bool,
        /// To one exec
        #[arg(long, value_name = "E")]
        exec_id: Option<String>,
    },
    /// Change limits of a container while it runs, all of those given or none
    Update {
        id: String,
        #[command(flatten)]
        limits: Box<LimitFlags>,
    },
    /// Show what a container uses
    Metrics { id: String },
    /// Write a running task to the content store, as an image; print the digest of its index
    Checkpoint {
        id: String,
        /// Give the image this name
        #[arg(long, value_name = "REF")]
        image: Option<String>,
        /// End the task, instead of letting it go on
        #[arg(long)]
        exit: bool,
    },
    /// Make a task from a checkpoint and let it go on where it was; the container too, if there is none
    Restore {
        id: String,
        /// The name of the checkpoint
        #[arg(value_name = "REF")]
        checkpoint: String,
    },
    /// Wait for the end of a container and exit with its status
    Wait { id: String },
    /// Remove a task that has ended
    Delete {
        id: String,
        /// Kill it first if it runs
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Pass stdin on
    #[arg(short, long)]
    interactive: bool,
    /// User, by name or number [default: the container's]
    #[arg(short, long, value_name = "U[:G]")]
    user: Option<String>,
    /// Working directory [default: the container's]
    #[arg(short, long, value_name = "D")]
    workdir: Option<String>,
    /// Environment, added to the container's
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Its name in the task [default: a random one]
    #[arg(long, value_name = "E")]
    exec_id: Option<String>,
    #[command(flatten)]
    keys: DetachFlag,
    id: String,
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    command: Vec<String>,
}

impl Tasks {
    /// Whether the command's exit status is that of a process.
    pub(crate) fn is_foreground(&self) -> bool {
        match self {
            Self::Start { detach, .. } => !detach,
            Self::Exec(exec) => !exec.detach,
            Self::Wait { .. } | Self::Attach { .. } => true,
            _ => false,
        }
    }

    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: tasks::Client = session.open("tasks");
        match self {
            Self::Create { id, interactive, log } => {
                let mut request = service.create_request();
                request.get().set_container(&id);
                let streams = Streams::choose(true, false, &log)?;
                streams.write(interactive, request.get().init_stdio());
                let response = call!(session, request);
                let pid = response.get()?.get_info()?.get_pid();
                Ok(writeln!(std::io::stdout(), "{pid}")?)
            }
            Self::Start { id, detach, interactive, log, keys } => {
                let detach_keys = keys.detach_keys;
                let streams = Streams::choose(detach, false, &log)?;
                let start =
                    Start { id: &id, is_detached: detach, interactive, streams, detach_keys };
                start.run(session, &service).await
            }
            Self::Attach { id, no_stdin, keys } => {
                attach(session, &service, &id, !no_stdin, keys.detach_keys).await
            }
            Self::Logs(logs) => {
                let task = find(session, &service, &logs.id).await?;
                logs.run(session, &task).await
            }
            Self::Pause { id } => {
                let task = find(session, &service, &id).await?;
                call!(session, task.pause_request());
                Ok(())
            }
            Self::Resume { id } => {
                let task = find(session, &service, &id).await?;
                call!(session, task.resume_request());
                Ok(())
            }
            Self::Ls(ls) => list(session, &service, &ls).await,
            Self::Inspect { id } => {
                let mut request = service.get_request();
                request.get().set_id(&id);
                let response = call!(session, request);
                print::json(response.get()?.get_info()?)
            }
            Self::Ps { id } => processes(session, &find(session, &service, &id).await?).await,
            Self::Exec(exec) => exec.run(session, &service).await,
            Self::Kill { id, signal, all, exec_id } => {
                let number = signal::parse(&signal)?;
                let task = find(session, &service, &id).await?;
                let mut request = task.kill_request();
                request.get().set_signal(number);
                request.get().set_all(all);
                request.get().set_exec_id(exec_id.as_deref().unwrap_or_default());
                call!(session, request);
                Ok(())
            }
            Self::Update { id, limits } => {
                if limits.is_empty() {
                    let text = "say which limit to change, such as --memory 64m";
                    return Err(Error::invalid(text).into());
                }
                let task = find(session, &service, &id).await?;
                let mut request = task.update_request();
                limits.write(request.get().init_resources());
                call!(session, request);
                Ok(())
            }
            Self::Metrics { id } => {
                let task = find(session, &service, &id).await?;
                let response = call!(session, task.metrics_request());
                metrics::print(session, response.get()?.get_samples()?)
            }
            Self::Checkpoint { id, image, exit } => {
                let task = find(session, &service, &id).await?;
                let mut request = task.checkpoint_request();
                request.get().set_image(image.as_deref().map(full_name).unwrap_or_default());
                request.get().set_exit(exit);
                let response = call!(session, request);
                let digest = response.get()?.get_digest()?.to_str()?;
                Ok(writeln!(std::io::stdout(), "{digest}")?)
            }
            Self::Restore { id, checkpoint } => {
                let mut request = service.restore_request();
                request.get().set_container(&id);
                request.get().set_checkpoint(full_name(&checkpoint));
                let streams = Streams::choose(true, false, &LogFlags::default())?;
                streams.write(false, request.get().init_stdio());
                let response = call!(session, request);
                Target::Task(response.get()?.get_task()?).start(session).await?;
                Ok(writeln!(std::io::stdout(), "{id}")?)
            }
            Self::Wait { id } => {
                Target::Task(find(session, &service, &id).await?).wait(session, None).await
            }
            Self::Delete { id, force } => {
                let task = find(session, &service, &id).await?;
                let mut request = task.delete_request();
                request.get().set_force(force);
                let response = call!(session, request);
                if session.is_json() {
                    return print::json(response.get()?.get_exit()?);
                }
                Ok(writeln!(std::io::stdout(), "{id}")?)
            }
        }
    }
}

async fn find(session: &Session, service: &tasks::Client, id: &str) -> Outcome<task::Client> {
    let mut request = service.get_request();
    request.get().set_id(id);
    let response = call!(session, request);
    Ok(response.get()?.get_task()?)
}

/// Follows a task that is there.
async fn attach(
    session: &Session,
    service: &tasks::Client,
    id: &str,
    is_interactive: bool,
    detach_keys: DetachKeys,
) -> Outcome {
    let mut request = service.get_request();
    request.get().set_id(id);
    let response = call!(session, request);
    let info = response.get()?.get_info()?;
    let attach = info.get_attach()?.to_str()?;
    if attach.is_empty() {
        return Err(Error::precondition(format!(
            "container {id} has no streams to attach to: it was started with --null-io or with FIFOs"
        ))
        .into());
    }
    let wish = Wish { is_interactive, has_terminal: info.get_terminal() };
    let target = Target::Task(response.get()?.get_task()?);
    let process = Foreground { target, attach, wish, detach_keys, is_new: false };
    parted(id, process.run(session).await?);
    Ok(())
}

/// Starts a task that was created, or creates one first.
struct Start<'a> {
    id: &'a str,
    is_detached: bool,
    interactive: bool,
    streams: Streams,
    detach_keys: DetachKeys,
}

impl Start<'_> {
    async fn run(self, session: &Session, service: &tasks::Client) -> Outcome {
        let mut request = service.get_request();
        request.get().set_id(self.id);
        let existing = session.client.call(request.send().promise).await?;
        let (task, attach, has_terminal) = match capstan_client::check!(existing.get()?) {
            Ok(found) => {
                let info = found.get_info()?;
                (found.get_task()?, info.get_attach()?.to_string()?, info.get_terminal())
            }
            Err(_) => {
                let mut request = service.create_request();
                request.get().set_container(self.id);
                self.streams.write(self.interactive, request.get().init_stdio());
                let response = call!(session, request);
                let made = response.get()?;
                let info = made.get_info()?;
                (made.get_task()?, info.get_attach()?.to_string()?, info.get_terminal())
            }
        };
        let target = Target::Task(task);
        if self.is_detached {
            return target.start(session).await.map(drop);
        }
        let wish = Wish { is_interactive: self.interactive, has_terminal };
        let detach_keys = self.detach_keys;
        let process = Foreground { target, attach: &attach, wish, detach_keys, is_new: true };
        parted(self.id, process.run(session).await?);
        Ok(())
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Pausing => "pausing",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    }
}

async fn list(session: &Session, service: &tasks::Client, ls: &Ls) -> Outcome {
    let mut list = Listing::new(session.is_json(), ls.quiet, &["ID", "PID", "STATUS", "EXIT"]);
    let mut request = service.list_request();
    let count = u32::try_from(ls.filters.len()).unwrap_or(u32::MAX);
    write_texts(&ls.filters, request.get().init_filters(count));
    let response = call!(session, request);
    for item in response.get()?.get_tasks()? {
        list.item(item, item.get_id(), |id| {
            let exit = match item.has_exit() {
                true => item.get_exit()?.get_status().to_string(),
                false => "-".into(),
            };
            Ok([id.to_owned(), item.get_pid().to_string(), status(item.get_status()?).into(), exit])
        })?;
    }
    list.print()
}

async fn processes(session: &Session, task: &task::Client) -> Outcome {
    let mut list = Listing::new(session.is_json(), false, &["PID", "EXEC"]);
    let response = call!(session, task.processes_request());
    for item in response.get()?.get_processes()? {
        let item: process_info::Reader<'_> = item;
        list.item(item, item.get_exec_id(), |exec_id| {
            let exec_id = if exec_id.is_empty() { "-" } else { exec_id };
            Ok([item.get_pid().to_string(), exec_id.to_owned()])
        })?;
    }
    list.print()
}

impl Exec {
    async fn run(self, session: &Session, service: &tasks::Client) -> Outcome {
        let wish = Wish { is_interactive: self.interactive, has_terminal: self.tty };
        let task = find(session, service, &self.id).await?;
        let mut request = task.exec_request();
        let mut params = request.get();
        params.set_exec_id(self.exec_id.as_deref().unwrap_or_default());
        let mut process = params.reborrow().init_process();
        let count = |list: &[String]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        write_texts(&self.command, process.reborrow().init_args(count(&self.command)));
        write_texts(&self.env, process.reborrow().init_env(count(&self.env)));
        process.set_workdir(self.workdir.as_deref().unwrap_or_default());
        process.set_user(self.user.as_deref().unwrap_or_default());
        process.set_terminal(self.tty);
        let streams = Streams::choose(false, self.detach, &LogFlags::default())?;
        streams.write(self.interactive, params.init_stdio());
        let response = call!(session, request);
        let reply = response.get()?;
        let process = reply.get_process()?;
        let target = Target::Exec(process.clone());
        if self.detach {
            target.start(session).await?;
            return Ok(writeln!(std::io::stdout(), "{}", reply.get_exec_id()?.to_str()?)?);
        }
        let attach = reply.get_attach()?.to_str()?;
        let foreground = Foreground {
            target,
            attach,
            wish,
            detach_keys: self.keys.detach_keys.clone(),
            is_new: true,
        };
        let outcome = foreground.run(session).await;
        match outcome {
            Ok(Parted::Detached) => {
                parted(&self.id, Parted::Detached);
                Ok(())
            }
            // The daemon forgets an exec that could not start; one that ran is for us to forget.
            Err(failure @ (Failure::Error(_) | Failure::InForeground(_))) => Err(failure),
            ended => {
                call!(session, process.delete_request());
                ended.map(drop)
            }
        }
    }
}
