//! Capabilities (capabilities(7)): the field's default set, and what users add and drop.

use std::collections::BTreeSet;

use capstan_sdk::{Error, Result};

/// All capabilities, by their number in the kernel.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless its user says otherwise: the set of Docker and containerd.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Capabilities that this machine can give: those in the daemon's own bounding set.
pub(crate) fn available() -> BTreeSet<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    of_status(&status)
}

fn of_status(status: &str) -> BTreeSet<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    (0..).zip(ALL).filter(|&(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| name).collect()
}

fn parse(text: &str) -> Result<&'static str> {
    let name = text.to_uppercase();
    let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
    ALL.into_iter().find(|known| *known == name).ok_or_else(|| {
        Error::invalid(format!("capability {text:?}: there is none; write NET_ADMIN, or ALL"))
    })
}

/// The capabilities of a container, in a stable order. What the machine cannot give is left out of
/// `ALL`, and is an error where it was named.
///
/// # Errors
/// `InvalidArgument`: no such capability. `FailedPrecondition`: one that the daemon itself lacks.
pub(crate) fn select(
    add: &[String],
    drop: &[String],
    is_privileged: bool,
    available: &BTreeSet<&'static str>,
) -> Result<Vec<&'static str>> {
    let is_all = |text: &String| text.eq_ignore_ascii_case("ALL");
    let mut set: BTreeSet<&'static str> = match drop.iter().any(is_all) {
        true => BTreeSet::new(),
        false if is_privileged || add.iter().any(is_all) => available.clone(),
        false => DEFAULT.into_iter().filter(|name| available.contains(name)).collect(),
    };
    for text in add.iter().filter(|text| !is_all(text)) {
        let name = parse(text)?;
        if !available.contains(name) {
            return Err(Error::precondition(format!(
                "capability {name}: the daemon does not have it and cannot give it"
            )));
        }
        set.insert(name);
    }
    for text in drop.iter().filter(|text| !is_all(text)) {
        set.remove(parse(text)?);
    }
    Ok(ALL.into_iter().filter(|name| set.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], is_privileged: bool, want: Option<usize>) {
        let text = |list: &[&str]| list.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        let available: BTreeSet<_> = ALL.into_iter().filter(|c| *c != "CAP_SYS_RESOURCE").collect();
        let got = select(&text(add), &text(drop), is_privileged, &available).ok().map(|c| c.len());
        assert_eq!(got, want, "+{add:?} -{drop:?}");
    }

    #[test]
    fn sets_are_added_to_and_taken_from() {
        check(&[], &[], false, Some(14));
        check(&["NET_ADMIN"], &[], false, Some(15));
        check(&["cap_net_admin", "CHOWN"], &[], false, Some(15));
        check(&[], &["chown"], false, Some(13));
        check(&[], &["ALL"], false, Some(0));
        check(&["CHOWN"], &["all"], false, Some(1));
        check(&["ALL"], &[], false, Some(40));
        check(&["ALL"], &["CHOWN"], false, Some(39));
        check(&[], &[], true, Some(40));
        check(&["SYS_RESOURCE"], &[], false, None);
        check(&["NOTHING"], &[], false, None);
        check(&[], &["NOTHING"], false, None);
    }

    #[test]
    fn the_bounding_set_is_read() {
        let set = of_status("Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n");
        assert_eq!(set.len(), 40);
        assert!(!set.contains("CAP_SYS_RESOURCE"));
        assert!(of_status("").is_empty());
    }
}
