//! The commands, each one call of libcontainer.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::signal::Signal;
use libcontainer::syscall::syscall::SyscallType;

use crate::args::{Args, Command};
use crate::bundle::Bundle;
use crate::cgroup::{self, Entered};
use crate::workload::Program;

/// Does what the command line says.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Create { bundle } => create(args, bundle),
        Command::Start => Ok(load(args)?.start()?),
        Command::Exec { process } => exec(args, process),
        Command::Kill { signal } => {
            let signal = Signal::try_from(signal.as_str())
                .with_context(|| format!("signal {signal:?}: there is none"))?;
            Ok(load(args)?.kill(signal, false)?)
        }
        Command::Delete { is_forced } => delete(args, *is_forced),
        Command::State => {
            let mut container = load(args)?;
            container.state.bundle = bundle(args)?.original()?;
            let state = serde_json::to_string_pretty(&container.state)?;
            // The one thing that goes to stdout (runtime-spec, runtime.md, "Query State").
            std::io::Write::write_all(&mut std::io::stdout(), state.as_bytes())?;
            Ok(())
        }
    }
}

/// Relative paths are relative to where we were started; libcontainer changes its directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("find {}", path.display()))
}

fn bundle(args: &Args) -> Result<Bundle> {
    Ok(Bundle::of(&absolute(&args.root)?, &args.id))
}

fn builder(args: &Args, bundle: &Bundle) -> Result<ContainerBuilder> {
    let pid_file = args.pid_file.as_deref().map(absolute).transpose()?;
    let console = args.console_socket.as_deref().map(absolute).transpose()?;
    Ok(ContainerBuilder::new(args.id.clone(), SyscallType::default())
        .with_executor(Program { filter: bundle.filter()? })
        .with_root_path(absolute(&args.root)?)?
        .with_pid_file(pid_file)?
        .with_console_socket(console)
        .validate_id()?)
}

fn create(args: &Args, original: &Path) -> Result<()> {
    let root = absolute(&args.root)?;
    let dir = container_dir(args)?;
    std::fs::create_dir_all(&root).with_context(|| format!("make {}", root.display()))?;
    if dir.exists() {
        bail!("container {} exists", args.id);
    }
    let bundle = Bundle::make(&root, &args.id, &absolute(original)?)?;
    let created = create_in(args, &bundle).and_then(|()| bundle.close(&dir));
    if created.is_err() {
        // The first error is the one to tell; a bundle that stays goes with `delete --force`.
        let _ = bundle.remove();
    }
    created
}

fn create_in(args: &Args, bundle: &Bundle) -> Result<()> {
    let mut spec = bundle.spec()?;
    let path = cgroup::path_of(&spec).filter(|_| !args.is_systemd_cgroup).map(Path::to_owned);
    let Some(path) = path else { return build(args, bundle) };
    let resources = bundle.take_resources(&mut spec)?;
    let entered = Entered::enter(&path)?;
    let created = build(args, bundle).and_then(|()| entered.limit(resources.as_ref()));
    if created.is_err() {
        // As above.
        let _ = entered.leave();
    }
    created
}

fn build(args: &Args, bundle: &Bundle) -> Result<()> {
    builder(args, bundle)?
        .as_init(bundle.dir())
        .with_systemd(args.is_systemd_cgroup)
        .with_detach(true)
        .build()?;
    Ok(())
}

fn exec(args: &Args, process: &Path) -> Result<()> {
    let bundle = bundle(args)?;
    let (process, path) = bundle.adapt(&absolute(process)?)?;
    if bundle.filter()?.is_some() && process.no_new_privileges() != Some(true) {
        bail!("container {} has noNewPrivileges, so what is started in it must", args.id);
    }
    let spec = bundle.spec()?;
    let entered = match cgroup::path_of(&spec).filter(|_| !args.is_systemd_cgroup) {
        Some(path) => Some(Entered::enter(path)?),
        None => None,
    };
    let builder = builder(args, &bundle)?;
    crate::userns::join(&spec, &container_dir(args)?)?;
    let started = builder.as_tenant().with_process(Some(path.clone())).with_detach(true).build();
    drop(entered);
    // If it stays, it goes with the bundle.
    let _ = std::fs::remove_file(path);
    started?;
    Ok(())
}

fn container_dir(args: &Args) -> Result<PathBuf> {
    if args.id.is_empty() || args.id.contains('/') || args.id.starts_with('.') {
        bail!("container id {:?} is none", args.id);
    }
    Ok(absolute(&args.root)?.join(&args.id))
}

fn load(args: &Args) -> Result<Container> {
    let dir = container_dir(args)?;
    if !dir.is_dir() {
        bail!("container {} does not exist", args.id);
    }
    Ok(Container::load(dir)?)
}

/// With `--force` that there is nothing is fine, as with runc.
fn delete(args: &Args, is_forced: bool) -> Result<()> {
    let dir = container_dir(args)?;
    let bundle = bundle(args)?;
    if remove_ended(args, &bundle, &dir)? {
        return bundle.remove();
    }
    match Container::load(dir.clone()) {
        Ok(mut container) => container.delete(is_forced)?,
        Err(_) if is_forced && !dir.is_dir() => {}
        // A create that broke off left no state worth reading.
        Err(_) if is_forced => {
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        Err(error) => return Err(error.into()),
    }
    bundle.remove()
}

/// Removes what is left of a container that has ended: that it has is seen by its cgroups, which cannot
/// be removed else. libcontainer looks at the number of its process, which may be another's by now, and
/// takes three times as long. `false`: there is more to do than that.
fn remove_ended(args: &Args, bundle: &Bundle, dir: &Path) -> Result<bool> {
    let Ok(spec) = bundle.spec() else { return Ok(false) };
    let has_rdt = spec.linux().as_ref().is_some_and(|linux| linux.intel_rdt().is_some());
    let is_plain = spec.hooks().is_none() && !has_rdt && !args.is_systemd_cgroup;
    if !is_plain || !dir.is_dir() || !cgroup::remove_empty(&spec) {
        return Ok(false);
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(true)
}
