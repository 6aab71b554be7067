//! The mounts of a container: the field's default ones, and those that the user asked for.

use std::path::Path;

use capstan_sdk::contract::containers::{ContainerMount, ContainerSpec, NamespaceKind};
use capstan_sdk::{Error, Result};
use serde_json::{Value, json};

use crate::bounds;
use crate::namespaces::{is_hosts, maps};

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

/// The group of terminals (Debian's `tty`, and everybody's).
const TTY_GROUP: u32 = 5;

/// How large `/dev/shm` is if nobody says, in bytes (Docker's default).
const SHM_BYTES: u64 = 64 << 20;

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
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    if !spec.id_mappings.is_empty() && !maps(&spec.id_mappings, TTY_GROUP) {
        pts.pop();
    }
    let mut mounts = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry("/dev/pts", "devpts", "devpts", &pts),
    ];
    mounts.extend(for_ipc(spec)?);
    mounts.extend([
        entry("/sys", "sysfs", "sysfs", sys),
        entry("/run", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ]);
    if is_hosts(spec, NamespaceKind::Network) {
        // A host may lack one of them; a container lacks it then too.
        let files = HOST_NETWORK_FILES.into_iter().filter(|file| Path::new(file).exists());
        mounts.extend(files.map(|file| entry(file, "bind", file, &["rbind", "ro"])));
    }
    for mount in &spec.mounts {
        mounts.push(wanted(mount)?);
    }
    Ok(mounts)
}

/// Shared memory and message queues: of its own, or the host's.
fn for_ipc(spec: &ContainerSpec) -> Result<Vec<Value>> {
    let fences = ["nosuid", "noexec", "nodev"];
    if is_hosts(spec, NamespaceKind::Ipc) {
        if spec.shm_bytes > 0 {
            return Err(Error::invalid("the host's /dev/shm has a size; leave out --shm-size"));
        }
        let dirs = ["/dev/shm", "/dev/mqueue"].into_iter().filter(|dir| Path::new(dir).exists());
        let bind = ["rbind", fences[0], fences[1], fences[2]];
        return Ok(dirs.map(|dir| entry(dir, "bind", dir, &bind)).collect());
    }
    let bytes = if spec.shm_bytes > 0 { spec.shm_bytes } else { SHM_BYTES };
    // Rounded up to what the option can say.
    let size = format!("size={}k", bytes.div_ceil(1024));
    let shm = [fences[0], fences[1], fences[2], "mode=1777", &size];
    Ok(vec![
        entry("/dev/shm", "tmpfs", "shm", &shm),
        entry("/dev/mqueue", "mqueue", "mqueue", &fences),
    ])
}

/// `linux.maskedPaths` and `linux.readonlyPaths`: the default ones but for those that the user opened,
/// and what the user masks.
///
/// # Errors
/// `InvalidArgument`: a path that is none, or that nothing fences.
pub(crate) fn fences(spec: &ContainerSpec) -> Result<(Vec<&str>, Vec<&str>)> {
    let (mut masked, mut read_only) = match spec.is_privileged {
        true => (Vec::new(), Vec::new()),
        false => (MASKED_PATHS.to_vec(), READ_ONLY_PATHS.to_vec()),
    };
    for path in &spec.unmask {
        if path.eq_ignore_ascii_case("ALL") {
            masked.clear();
            read_only.clear();
            continue;
        }
        let before = masked.len() + read_only.len();
        masked.retain(|other| other != path);
        read_only.retain(|other| other != path);
        if masked.len() + read_only.len() == before && !spec.unmask.iter().any(|p| p == "ALL") {
            return Err(Error::invalid(format!(
                "unmask {path:?}: it is not masked, nor read-only"
            )));
        }
    }
    for path in &spec.mask {
        let is_path = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !is_path || path.len() < 2 || path.contains('\0') {
            return Err(Error::invalid(format!(
                "mask {path:?}: write an absolute path without \"..\", and not the root"
            )));
        }
        if !masked.contains(&path.as_str()) {
            masked.push(path);
        }
    }
    Ok((masked, read_only))
}

/// A mount that the user asked for.
fn wanted(mount: &ContainerMount) -> Result<Value> {
    bounds::check_path("the target of a mount", &mount.destination)?;
    bounds::check_path("the source of a mount", &mount.source)?;
    let destination = &mount.destination;
    let bad = |why: &str| Error::invalid(format!("mount at {destination:?}: {why}"));
    let texts = [&mount.kind, &mount.source, destination];
    if texts.into_iter().chain(&mount.options).any(|text| text.contains('\0')) {
        return Err(bad("there is a NUL in it"));
    }
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
    use capstan_sdk::contract::containers::{IdMapping, NamespaceWish, Network};

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

    fn mount_of(spec: &ContainerSpec, destination: &str) -> String {
        let mounts = all(spec).unwrap();
        let found = mounts.iter().find(|mount| mount["destination"] == destination);
        found.map_or_else(String::new, |mount| {
            let options = mount["options"].as_array().unwrap().iter();
            let options: Vec<&str> = options.map(|option| option.as_str().unwrap()).collect();
            format!("{} {}", mount["source"].as_str().unwrap(), options.join(","))
        })
    }

    #[test]
    fn shared_memory_has_a_size_or_is_the_hosts() {
        let mut spec = ContainerSpec::default();
        let shm = |size: &str| format!("shm nosuid,noexec,nodev,mode=1777,size={size}k");
        assert_eq!(mount_of(&spec, "/dev/shm"), shm("65536"));
        spec.shm_bytes = 1 << 20;
        assert_eq!(mount_of(&spec, "/dev/shm"), shm("1024"));
        spec.namespaces = vec![NamespaceWish { kind: NamespaceKind::Ipc, path: String::new() }];
        assert!(all(&spec).is_err());
        spec.shm_bytes = 0;
        assert_eq!(mount_of(&spec, "/dev/shm"), "/dev/shm rbind,nosuid,noexec,nodev");
    }

    /// D98: a host without one of these files could run no container.
    #[test]
    fn files_of_the_host_are_there_with_its_network_alone() {
        let mut spec = ContainerSpec::default();
        assert_eq!(mount_of(&spec, "/etc/hosts"), "");
        spec.network = Network::Host;
        for file in HOST_NETWORK_FILES {
            let want =
                if Path::new(file).exists() { format!("{file} rbind,ro") } else { String::new() };
            assert_eq!(mount_of(&spec, file), want);
        }
    }

    #[test]
    fn terminals_have_a_group_if_there_is_one() {
        let mut spec = ContainerSpec::default();
        assert!(mount_of(&spec, "/dev/pts").ends_with(",gid=5"));
        spec.id_mappings = vec![IdMapping { container: 0, host: 100_000, size: 5 }];
        assert!(mount_of(&spec, "/dev/pts").ends_with(",mode=0620"));
        spec.id_mappings[0].size = 6;
        assert!(mount_of(&spec, "/dev/pts").ends_with(",gid=5"));
    }

    #[test]
    fn paths_are_masked_and_opened() {
        let check = |mask: &[&str], unmask: &[&str], want: Option<(usize, usize)>| {
            let text = |list: &[&str]| list.iter().map(|&t| t.to_owned()).collect();
            let (mask, unmask) = (text(mask), text(unmask));
            let spec = ContainerSpec { mask, unmask, ..ContainerSpec::default() };
            let got = fences(&spec).ok().map(|(masked, read_only)| (masked.len(), read_only.len()));
            assert_eq!(got, want, "{spec:?}");
        };
        check(&[], &[], Some((12, 5)));
        check(&["/secret"], &[], Some((13, 5)));
        check(&["/proc/kcore"], &[], Some((12, 5)));
        check(&[], &["/proc/kcore"], Some((11, 5)));
        check(&[], &["/proc/sys"], Some((12, 4)));
        check(&[], &["ALL"], Some((0, 0)));
        check(&["/secret"], &["ALL", "/proc/sys"], Some((1, 0)));
        check(&[], &["/nothing"], None);
        check(&["secret"], &[], None);
        check(&["/"], &[], None);
        check(&["/a/../b"], &[], None);
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
        check("", "/etc", "/x", &["ro\0"], None);
    }
}
