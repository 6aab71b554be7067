//! The mounts of a container: the field's default ones, and those that the user asked for.

use std::path::Path;

use capstan_sdk::contract::containers::{ContainerMount, ContainerSpec, Network};
use capstan_sdk::{Error, Result};
use serde_json::{Value, json};

use crate::limits;

/// Kernel paths that would tell a container about the host, or let it touch it. The list of Docker
/// and containerd.
pub(crate) const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Kernel paths that a container may read. The list of Docker and containerd.
pub(crate) const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Files that a container in the host's network needs to find names as the host does.
const HOST_NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

fn entry(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// All mounts, in the order in which they are made.
///
/// # Errors
/// `InvalidArgument`: one that cannot be. `NotFound`: the source of a bind.
pub(crate) fn all(spec: &ContainerSpec) -> Result<Vec<Value>> {
    let sys: &[&str] = match spec.is_privileged {
        true => &["nosuid", "noexec", "nodev", "rw"],
        false => &["nosuid", "noexec", "nodev", "ro"],
    };
    let mut mounts = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", "sysfs", sys),
        entry("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ];
    if spec.network == Network::Host {
        // A host may lack one of them; a container lacks it then too.
        let files = HOST_NETWORK_FILES.into_iter().filter(|file| Path::new(file).exists());
        mounts.extend(files.map(|file| entry(file, "bind", file, &["rbind", "ro"])));
    }
    for mount in &spec.mounts {
        mounts.push(wanted(mount)?);
    }
    Ok(mounts)
}

/// A mount that the user asked for.
fn wanted(mount: &ContainerMount) -> Result<Value> {
    limits::check_path("the target of a mount", &mount.destination)?;
    limits::check_path("the source of a mount", &mount.source)?;
    let destination = &mount.destination;
    let bad = |why: &str| Error::invalid(format!("mount at {destination:?}: {why}"));
    if !destination.starts_with('/') || destination.split('/').any(|part| part == "..") {
        return Err(bad("the destination must be an absolute path without \"..\""));
    }
    if destination.trim_end_matches('/').is_empty() {
        return Err(bad("it would hide the root filesystem; use --rootfs for that"));
    }
    let kind = if mount.kind.is_empty() { "bind" } else { mount.kind.as_str() };
    let mut options = mount.options.clone();
    if kind == "bind" {
        if !mount.source.starts_with('/') {
            return Err(bad("src= must be an absolute path on the daemon's machine"));
        }
        if let Err(error) = std::fs::symlink_metadata(&mount.source) {
            return Err(Error::io(
                format!("mount at {destination:?}: source {}", mount.source),
                error,
            ));
        }
        if !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.insert(0, "rbind".into());
        }
    }
    let source = if mount.source.is_empty() { kind } else { mount.source.as_str() };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(entry(destination, kind, source, &options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, source: &str, destination: &str, options: &[&str], want: Option<&str>) {
        let mount = ContainerMount {
            kind: kind.into(),
            source: source.into(),
            destination: destination.into(),
            options: options.iter().map(|&o| o.into()).collect(),
        };
        let got = wanted(&mount).ok().map(|value| {
            let options: Vec<&str> =
                value["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
            let text = |key: &str| value[key].as_str().unwrap().to_owned();
            format!("{} {} {}", text("type"), text("source"), options.join(","))
        });
        assert_eq!(got.as_deref(), want, "{mount:?}");
    }

    #[test]
    fn user_mounts_are_checked() {
        check("", "/etc", "/x", &[], Some("bind /etc rbind"));
        check("bind", "/etc", "/x", &["bind", "ro"], Some("bind /etc bind,ro"));
        check("tmpfs", "", "/x", &["size=1m"], Some("tmpfs tmpfs size=1m"));
        check("", "/does/not/exist", "/x", &[], None);
        check("", "etc", "/x", &[], None);
        check("", "/etc", "x", &[], None);
        check("", "/etc", "/x/../..", &[], None);
        check("", "/etc", "/", &[], None);
        check("", "/etc", "", &[], None);
    }
}
