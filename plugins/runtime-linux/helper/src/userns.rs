//! The user namespace of a container that something else is to be started in.
//!
//! libcontainer 0.7 joins all namespaces of a container but this one: what it starts would be root on
//! the machine. So we are in it before libcontainer begins.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use libcontainer::container::Container;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};
use nix::sched::{CloneFlags, setns};

/// Enters the user namespace of a container, if it has one.
pub(crate) fn join(spec: &Spec, container: &Path) -> Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let is_user = |kind: LinuxNamespaceType| kind == LinuxNamespaceType::User;
    if !namespaces.is_some_and(|list| list.iter().any(|namespace| is_user(namespace.typ()))) {
        return Ok(());
    }
    let container = Container::load(container.to_owned())?;
    let Some(pid) = container.pid() else { bail!("container {} has no process", container.id()) };
    let path = format!("/proc/{pid}/ns/user");
    let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
    setns(namespace, CloneFlags::CLONE_NEWUSER).with_context(|| format!("enter {path}"))
}
