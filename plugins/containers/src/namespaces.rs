//! What a container shares with the host or with another, and what may be set in what it has alone:
//! namespaces, kernel parameters, and ids of a user namespace.

use capstan_sdk::contract::containers::{ContainerSpec, IdMapping, NamespaceKind, Network};
use capstan_sdk::{Error, Labels, Result};
use rustix::fs::statfs;
use serde_json::{Value, json};

use crate::user::User;

/// `NSFS_MAGIC` of statfs(2).
const NSFS: u64 = 0x6e73_6673;

/// The most lines that the kernel takes in a map of ids (`user_namespaces(7)`).
const MAX_MAPPINGS: usize = 340;

/// Parameters of an IPC namespace.
const IPC_PARAMETERS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The longest value of a kernel parameter that is taken, in bytes. The kernel takes a page.
const MAX_VALUE: usize = 4095;

const KINDS: [(NamespaceKind, &str); 4] = [
    (NamespaceKind::Pid, "pid"),
    (NamespaceKind::Ipc, "ipc"),
    (NamespaceKind::Uts, "uts"),
    (NamespaceKind::Network, "network"),
];

/// The namespace that is used instead of a new one; empty = the host's.
fn shared(spec: &ContainerSpec, kind: NamespaceKind) -> Option<&str> {
    let wish = spec.namespaces.iter().find(|wish| wish.kind == kind);
    match wish {
        Some(wish) => Some(&wish.path),
        None if kind == NamespaceKind::Network && spec.network == Network::Host => Some(""),
        None => None,
    }
}

/// Whether the container is to be in the host's namespace.
pub(crate) fn is_hosts(spec: &ContainerSpec, kind: NamespaceKind) -> bool {
    shared(spec, kind) == Some("")
}

/// Whether it gets a new one.
pub(crate) fn is_own(spec: &ContainerSpec, kind: NamespaceKind) -> bool {
    shared(spec, kind).is_none()
}

/// `linux.namespaces`.
///
/// # Errors
/// `InvalidArgument`: a path that is no namespace. `NotFound`: it does not exist.
pub(crate) fn all(spec: &ContainerSpec) -> Result<Vec<Value>> {
    let mut namespaces = vec![json!({ "type": "mount" })];
    for (kind, name) in KINDS {
        match shared(spec, kind) {
            None => namespaces.push(json!({ "type": name })),
            Some("") => {}
            Some(path) => {
                check_path(name, path)?;
                namespaces.push(json!({ "type": name, "path": path }));
            }
        }
    }
    if !spec.id_mappings.is_empty() {
        namespaces.push(json!({ "type": "user" }));
    }
    Ok(namespaces)
}

fn check_path(name: &str, path: &str) -> Result<()> {
    let what = format!("{name} namespace {path:?}");
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!("{what}: write an absolute path")));
    }
    let about = statfs(path).map_err(|error| Error::io(&what, error))?;
    match u64::try_from(about.f_type) {
        Ok(NSFS) => Ok(()),
        _ => Err(Error::invalid(format!("{what}: it is no namespace; see /proc/PID/ns"))),
    }
}

/// Checks kernel parameters: those of the container's own namespaces alone, by name. Anything else is
/// the host's (CVE-2022-0811).
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_sysctls(sysctls: &Labels, has_network: bool, has_ipc: bool) -> Result<()> {
    for (key, value) in sysctls {
        let bad = |why: &str| Err(Error::invalid(format!("sysctl {key}: {why}")));
        let is_word = |word: &str| {
            let is_good = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
            !word.is_empty() && word.bytes().all(is_good)
        };
        if !key.split('.').all(is_word) {
            return bad("write the name with dots, such as net.ipv4.ip_forward");
        }
        if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return bad("a value is one line of text");
        }
        let is_of_ipc = IPC_PARAMETERS.contains(&key.as_str()) || key.starts_with("fs.mqueue.");
        match (key.starts_with("net."), is_of_ipc) {
            (true, _) if has_network => {}
            (true, _) => return bad("the container has no network of its own (--net private)"),
            (_, true) if has_ipc => {}
            (_, true) => return bad("the container has no IPC namespace of its own"),
            (false, false) => {
                return bad(
                    "it is the whole machine's; a container may set net.*, kernel.shm*, kernel.msg*, \
                     kernel.sem, fs.mqueue.*",
                );
            }
        }
    }
    Ok(())
}

/// Checks the ids of a user namespace, and that all that is asked for goes together with one.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_mappings(spec: &ContainerSpec, user: &User) -> Result<()> {
    let mappings = &spec.id_mappings;
    if mappings.is_empty() {
        return Ok(());
    }
    let bad = |why: String| Err(Error::invalid(format!("user namespace: {why}")));
    if mappings.len() > MAX_MAPPINGS {
        return bad(format!("the kernel takes {MAX_MAPPINGS} mappings"));
    }
    for (index, mapping) in mappings.iter().enumerate() {
        let fits = |first: u32| first.checked_add(mapping.size).is_some();
        if mapping.size == 0 || !fits(mapping.container) || !fits(mapping.host) {
            return bad(format!(
                "{}:{}:{} goes beyond the largest id",
                mapping.container, mapping.host, mapping.size
            ));
        }
        let overlaps = |a: u32, a_size: u32, b: u32, b_size: u32| a < b + b_size && b < a + a_size;
        for other in &mappings[..index] {
            if overlaps(mapping.container, mapping.size, other.container, other.size)
                || overlaps(mapping.host, mapping.size, other.host, other.size)
            {
                return bad("two mappings overlap".into());
            }
        }
    }
    let ids = [0, user.uid, user.gid];
    if let Some(id) = ids.iter().chain(&user.additional_gids).find(|&&id| !maps(mappings, id)) {
        return bad(format!("id {id} of the container is not mapped"));
    }
    if spec.is_privileged {
        return bad("a privileged container has none".into());
    }
    for (kind, name) in KINDS {
        if !is_own(spec, kind) {
            return bad(format!("the container needs a new {name} namespace with it"));
        }
    }
    Ok(())
}

/// Whether an id of the container means somebody outside.
pub(crate) fn maps(mappings: &[IdMapping], id: u32) -> bool {
    mappings.iter().any(|m| id >= m.container && id - m.container < m.size)
}

/// `linux.uidMappings` and `linux.gidMappings`.
pub(crate) fn mappings(spec: &ContainerSpec) -> Vec<Value> {
    let entry =
        |m: &IdMapping| json!({ "containerID": m.container, "hostID": m.host, "size": m.size });
    spec.id_mappings.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::contract::containers::NamespaceWish;

    #[test]
    fn sysctls_are_those_of_the_containers_own_namespaces() {
        let check = |key: &str, value: &str, network: bool, ipc: bool, want: bool| {
            let sysctls = Labels::from([(key.into(), value.into())]);
            let got = check_sysctls(&sysctls, network, ipc);
            assert_eq!(got.is_ok(), want, "{key}={value:?}: {got:?}");
        };
        check("net.ipv4.ip_forward", "1", true, true, true);
        check("net.ipv4.ip_forward", "1", false, true, false);
        check("kernel.shmmax", "1", false, true, true);
        check("kernel.shmmax", "1", true, false, false);
        check("kernel.sem", "1 2 3 4", true, true, true);
        check("fs.mqueue.msg_max", "5", true, true, true);
        check("fs.mqueue.msg_max", "5", true, false, false);
        check("kernel.core_pattern", "|/x", true, true, false);
        check("kernel.hotplug", "/x", true, true, false);
        check("vm.swappiness", "1", true, true, false);
        check("fs.file-max", "1", true, true, false);
        // CVE-2022-0811: one parameter hidden in the value of another.
        check("kernel.shmmax", "1\nkernel.core_pattern=|/x", true, true, false);
        check("kernel.shmmax", "1\0", true, true, false);
        check("kernel.shmmax", "", true, true, false);
        check("net/../kernel/core_pattern", "1", true, true, false);
        check("net..core_pattern", "1", true, true, false);
        check("net.ipv4.x+kernel.core_pattern", "1", true, true, false);
        check("net.", "1", true, true, false);
    }

    fn spec(mappings: &[(u32, u32, u32)]) -> ContainerSpec {
        let mapping = |&(container, host, size)| IdMapping { container, host, size };
        ContainerSpec {
            id_mappings: mappings.iter().map(mapping).collect(),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn ids_of_a_user_namespace_are_checked() {
        let check = |mappings: &[(u32, u32, u32)], uid: u32, want: bool| {
            let user = User { uid, ..User::default() };
            let got = check_mappings(&spec(mappings), &user);
            assert_eq!(got.is_ok(), want, "{mappings:?}: {got:?}");
        };
        check(&[], 5, true);
        check(&[(0, 100_000, 65_536)], 65_535, true);
        check(&[(0, 100_000, 65_536)], 65_536, false);
        check(&[(0, 1000, 1), (1, 100_000, 10)], 10, true);
        check(&[(1, 100_000, 10)], 1, false);
        check(&[(0, 100_000, 0)], 0, false);
        check(&[(0, u32::MAX, 2)], 0, false);
        check(&[(0, 100, 10), (9, 200, 10)], 0, false);
        check(&[(0, 100, 10), (10, 109, 10)], 0, false);
        let many: Vec<_> = (0..341).map(|n| (n, 1000 + n, 1)).collect();
        check(&many, 0, false);
        check(&many[..340], 0, true);
    }

    #[test]
    fn a_user_namespace_shares_nothing_with_the_host() {
        let check = |change: fn(&mut ContainerSpec)| {
            let mut spec = spec(&[(0, 100_000, 65_536)]);
            assert!(check_mappings(&spec, &User::default()).is_ok());
            change(&mut spec);
            assert!(check_mappings(&spec, &User::default()).is_err(), "{spec:?}");
        };
        check(|spec| spec.is_privileged = true);
        check(|spec| spec.network = Network::Host);
        check(|spec| {
            spec.namespaces = vec![NamespaceWish { kind: NamespaceKind::Pid, path: String::new() }];
        });
    }

    #[test]
    fn a_namespace_to_join_must_be_one() {
        let check = |path: &str, want: Option<usize>| {
            let wish = NamespaceWish { kind: NamespaceKind::Network, path: path.into() };
            let spec = ContainerSpec { namespaces: vec![wish], ..ContainerSpec::default() };
            assert_eq!(all(&spec).ok().map(|list| list.len()), want, "{path:?}");
        };
        check("", Some(4));
        check("/proc/self/ns/net", Some(5));
        check("/etc/passwd", None);
        check("/no/such", None);
        check("proc/self/ns/net", None);
    }
}
