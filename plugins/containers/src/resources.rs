//! Limits: from what the user asked for to `linux.resources` and `process.rlimits`.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use capstan_sdk::contract::containers::Ulimit;
use capstan_sdk::contract::resources::Resources;
use capstan_sdk::{Error, Result};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::capability;

/// A CPU limit is counted over so many microseconds (the kernel's and Docker's default).
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The resources of setrlimit(2).
const ULIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Says which limit is wrong, and why.
fn bad(what: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{what}: {why}"))
}

fn within(what: &str, value: u64, least: u64, most: u64) -> Result<()> {
    match value {
        0 => Ok(()),
        value if (least..=most).contains(&value) => Ok(()),
        value => Err(bad(what, format!("{value} is not between {least} and {most}"))),
    }
}

/// Everything but devices.
///
/// # Errors
/// `InvalidArgument`, by field. `NotFound`: a device that is to be throttled.
pub(crate) fn limits(wanted: &Resources, usual_pids: u64) -> Result<Value> {
    let mut limits = json!({});
    for (name, value) in
        [("memory", memory(wanted)?), ("cpu", cpu(wanted)?), ("blockIO", block_io(wanted)?)]
    {
        if value.as_object().is_some_and(|object| !object.is_empty()) {
            limits[name] = value;
        }
    }
    let pids = if wanted.pids_limit > 0 { wanted.pids_limit } else { usual_pids };
    within("pids limit", pids, 1, i64::MAX as u64)?;
    if pids > 0 {
        limits["pids"] = json!({ "limit": pids });
    }
    let huge = huge_pages(wanted)?;
    if !huge.is_empty() {
        limits["hugepageLimits"] = huge.into();
    }
    Ok(limits)
}

fn memory(wanted: &Resources) -> Result<Value> {
    let mut memory = json!({});
    let (limit, swap) = (wanted.memory_bytes, wanted.memory_swap_bytes);
    let most = i64::MAX as u64;
    within("memory limit", limit, 1, most)?;
    within("memory reservation", wanted.memory_reservation_bytes, 1, most)?;
    if limit > 0 {
        memory["limit"] = limit.into();
        // No swap beyond it, or the limit would be none.
        memory["swap"] = match swap {
            0 => limit.into(),
            u64::MAX => json!(-1),
            swap => swap.into(),
        };
    }
    if swap > 0 && swap < u64::MAX {
        within("memory and swap", swap, 1, most)?;
        if swap < limit {
            return Err(bad("memory and swap", "together they cannot be less than the memory"));
        }
    }
    if swap > 0 && limit == 0 {
        return Err(bad("memory and swap", "limit the memory too (--memory)"));
    }
    if wanted.memory_reservation_bytes > 0 {
        if limit > 0 && wanted.memory_reservation_bytes > limit {
            return Err(bad("memory reservation", "it is more than the memory limit"));
        }
        memory["reservation"] = wanted.memory_reservation_bytes.into();
    }
    Ok(memory)
}

fn cpu(wanted: &Resources) -> Result<Value> {
    within("cpu shares", wanted.cpu_shares, 2, 262_144)?;
    within("cpu period", wanted.cpu_period_micros, 1000, 1_000_000)?;
    within("cpu quota", wanted.cpu_quota_micros, 1000, i64::MAX as u64)?;
    let mut cpu = json!({});
    if wanted.cpu_shares > 0 {
        cpu["shares"] = wanted.cpu_shares.into();
    }
    if wanted.cpu_quota_micros > 0 {
        cpu["quota"] = wanted.cpu_quota_micros.into();
        cpu["period"] = CPU_PERIOD_MICROS.into();
    }
    if wanted.cpu_period_micros > 0 {
        cpu["period"] = wanted.cpu_period_micros.into();
    }
    for (name, what, list) in
        [("cpus", "cpuset cpus", &wanted.cpuset_cpus), ("mems", "cpuset mems", &wanted.cpuset_mems)]
    {
        if !list.is_empty() {
            check_set(what, list)?;
            cpu[name] = list.as_str().into();
        }
    }
    Ok(cpu)
}

/// cpuset(7), "List format": `0-3,7`.
fn check_set(what: &str, list: &str) -> Result<()> {
    let number = |text: &str| match text.len() {
        1..=5 if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u32>().ok(),
        _ => None,
    };
    let is_range = |range: &str| match range.split_once('-') {
        Some((first, last)) => {
            number(first).zip(number(last)).is_some_and(|(first, last)| first <= last)
        }
        None => number(range).is_some(),
    };
    match list.split(',').all(is_range) {
        true => Ok(()),
        false => Err(bad(what, format!("{list:?}: write numbers and ranges, such as 0-3,7"))),
    }
}

fn block_io(wanted: &Resources) -> Result<Value> {
    let mut io = json!({});
    within("blkio weight", wanted.blkio_weight.into(), 10, 1000)?;
    if wanted.blkio_weight > 0 {
        io["weight"] = wanted.blkio_weight.into();
    }
    for throttle in &wanted.throttles {
        let (major, minor) = block_device(&throttle.device)?;
        for (name, rate) in [
            ("throttleReadBpsDevice", throttle.read_bytes_per_second),
            ("throttleWriteBpsDevice", throttle.write_bytes_per_second),
            ("throttleReadIOPSDevice", throttle.reads_per_second),
            ("throttleWriteIOPSDevice", throttle.writes_per_second),
        ] {
            if rate > 0 {
                if io[name].is_null() {
                    io[name] = json!([]);
                }
                let list = io[name].as_array_mut().expect("it was just made");
                list.push(json!({ "major": major, "minor": minor, "rate": rate }));
            }
        }
    }
    Ok(io)
}

fn block_device(path: &str) -> Result<(u32, u32)> {
    let what = format!("throttled device {path:?}");
    if !path.starts_with('/') {
        return Err(bad(&what, "write an absolute path"));
    }
    let about = std::fs::metadata(path).map_err(|error| Error::io(what.clone(), error))?;
    if !about.file_type().is_block_device() {
        return Err(bad(&what, "it is no block device"));
    }
    Ok((rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev())))
}

fn huge_pages(wanted: &Resources) -> Result<Vec<Value>> {
    let mut limits = Vec::new();
    for limit in &wanted.hugetlb {
        let sizes = page_sizes();
        if !sizes.contains(&limit.page_size) {
            return Err(bad(
                "huge pages",
                format!("there are none of {:?}, but of {}", limit.page_size, sizes.join(", ")),
            ));
        }
        limits.push(json!({ "pageSize": limit.page_size, "limit": limit.bytes }));
    }
    Ok(limits)
}

/// The sizes of huge pages on this machine, as cgroup files name them.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

/// `process.rlimits`: the usual number of open files, and what the user asked for.
///
/// # Errors
/// `InvalidArgument`, by field. `FailedPrecondition`: the daemon itself may not have so much.
pub(crate) fn rlimits(wanted: &[Ulimit], open_files: u64) -> Result<Vec<Value>> {
    let may_raise = capability::available().contains("CAP_SYS_RESOURCE");
    let entry = |kind: &str, soft: u64, hard: u64| {
        let kind = format!("RLIMIT_{}", kind.to_ascii_uppercase());
        json!({ "type": kind, "soft": soft, "hard": hard })
    };
    let mut rlimits = Vec::new();
    if !wanted.iter().any(|ulimit| ulimit.kind == "nofile") {
        rlimits.push(entry("nofile", open_files, open_files));
    }
    for (index, Ulimit { kind, soft, hard }) in wanted.iter().enumerate() {
        let what = format!("ulimit {kind}");
        let Some((_, resource)) = ULIMITS.iter().find(|(name, _)| name == kind) else {
            let names = ULIMITS.map(|(name, _)| name).join(", ");
            return Err(bad(&what, format!("there is none; use one of {names}")));
        };
        if wanted[..index].iter().any(|other| other.kind == *kind) {
            return Err(bad(&what, "it is there twice"));
        }
        if soft > hard {
            return Err(bad(&what, format!("soft {soft} is more than hard {hard}")));
        }
        if kind == "nofile" && *hard == u64::MAX {
            return Err(bad(&what, "the kernel takes no unlimited number of open files"));
        }
        let own = getrlimit(*resource).maximum.unwrap_or(u64::MAX);
        if *hard > own && !may_raise {
            return Err(Error::precondition(format!(
                "{what}: the daemon may have {own} itself, and no right to raise it (CAP_SYS_RESOURCE)"
            )));
        }
        rlimits.push(entry(kind, *soft, *hard));
    }
    Ok(rlimits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use capstan_sdk::contract::resources::{Hugetlb, Throttle};

    fn check(change: fn(&mut Resources), want: std::result::Result<Value, Class>) {
        let mut wanted = Resources::default();
        change(&mut wanted);
        let got = limits(&wanted, 0);
        match (got, want) {
            (Ok(got), Ok(want)) => {
                assert_eq!(got, want);
                // Misspelt fields would be left out by the type.
                let typed: oci_spec::runtime::LinuxResources =
                    serde_json::from_value(got.clone()).unwrap();
                assert_eq!(serde_json::to_value(typed).unwrap(), got);
            }
            (Err(error), Err(class)) => assert_eq!(error.class(), class, "{error}"),
            (got, want) => panic!("{wanted:?}: {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn each_limit_is_in_the_spec() {
        check(|_| (), Ok(json!({})));
        check(|w| w.memory_bytes = 64, Ok(json!({ "memory": { "limit": 64, "swap": 64 } })));
        check(
            |w| (w.memory_bytes, w.memory_swap_bytes) = (64, 128),
            Ok(json!({ "memory": { "limit": 64, "swap": 128 } })),
        );
        check(
            |w| (w.memory_bytes, w.memory_swap_bytes) = (64, u64::MAX),
            Ok(json!({ "memory": { "limit": 64, "swap": -1 } })),
        );
        check(|w| w.memory_reservation_bytes = 32, Ok(json!({ "memory": { "reservation": 32 } })));
        check(|w| w.cpu_shares = 512, Ok(json!({ "cpu": { "shares": 512 } })));
        check(
            |w| w.cpu_quota_micros = 150_000,
            Ok(json!({ "cpu": { "quota": 150_000, "period": 100_000 } })),
        );
        check(
            |w| (w.cpu_quota_micros, w.cpu_period_micros) = (5000, 10_000),
            Ok(json!({ "cpu": { "quota": 5000, "period": 10_000 } })),
        );
        check(
            |w| (w.cpuset_cpus, w.cpuset_mems) = ("0-1,3".into(), "0".into()),
            Ok(json!({ "cpu": { "cpus": "0-1,3", "mems": "0" } })),
        );
        check(|w| w.pids_limit = 5, Ok(json!({ "pids": { "limit": 5 } })));
        check(|w| w.blkio_weight = 500, Ok(json!({ "blockIO": { "weight": 500 } })));
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let refused = |change| check(change, Err(Class::InvalidArgument));
        refused(|w| (w.memory_bytes, w.memory_swap_bytes) = (64, 32));
        refused(|w| w.memory_swap_bytes = 64);
        refused(|w| w.memory_bytes = u64::MAX);
        refused(|w| (w.memory_bytes, w.memory_reservation_bytes) = (64, 65));
        refused(|w| w.cpu_shares = 1);
        refused(|w| w.cpu_shares = 262_145);
        refused(|w| w.cpu_quota_micros = 999);
        refused(|w| w.cpu_period_micros = 999);
        refused(|w| w.cpu_period_micros = 1_000_001);
        refused(|w| w.cpuset_cpus = "a".into());
        refused(|w| w.cpuset_cpus = "3-1".into());
        refused(|w| w.cpuset_cpus = "0,".into());
        refused(|w| w.cpuset_mems = "0\n1".into());
        refused(|w| w.pids_limit = u64::MAX);
        refused(|w| w.blkio_weight = 9);
        refused(|w| w.blkio_weight = 1001);
        refused(|w| {
            w.hugetlb = vec![Hugetlb { page_size: "3MB".into(), bytes: 1 }];
        });
        refused(|w| w.throttles = vec![Throttle { device: "null".into(), ..Throttle::default() }]);
        refused(|w| {
            w.throttles = vec![Throttle { device: "/dev/null".into(), ..Throttle::default() }];
        });
        check(
            |w| w.throttles = vec![Throttle { device: "/no/dev".into(), ..Throttle::default() }],
            Err(Class::NotFound),
        );
    }

    #[test]
    fn page_sizes_have_the_kernels_names() {
        assert_eq!([64, 2048, 1 << 20].map(page_size), ["64KB", "2MB", "1GB"]);
    }

    #[test]
    fn ulimits_come_with_the_usual_number_of_files() {
        let ulimit = |kind: &str, soft, hard| Ulimit { kind: kind.into(), soft, hard };
        let file = |soft, hard| json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard });
        assert_eq!(rlimits(&[], 1024).unwrap(), [file(1024, 1024)]);
        assert_eq!(rlimits(&[ulimit("nofile", 5, 6)], 1024).unwrap(), [file(5, 6)]);
        let core = json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 });
        assert_eq!(rlimits(&[ulimit("core", 0, 0)], 1024).unwrap(), [file(1024, 1024), core]);
        for bad in [
            vec![ulimit("files", 1, 1)],
            vec![ulimit("core", 2, 1)],
            vec![ulimit("core", 1, 1), ulimit("core", 1, 1)],
            vec![ulimit("nofile", 1, u64::MAX)],
        ] {
            assert_eq!(rlimits(&bad, 1024).unwrap_err().class(), Class::InvalidArgument, "{bad:?}");
        }
    }
}
