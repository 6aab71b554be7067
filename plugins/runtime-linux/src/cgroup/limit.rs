//! Changing limits: which files have to be written for what is wanted.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use capstan_sdk::contract::resources::{Resources, Throttle};
use capstan_sdk::{Error, Result};

use super::plan::{Write, apply};
use super::{Group, file, memory};

/// Of cpu.shares, by which the kernel would silently go.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Of blkio.weight.
const WEIGHT: std::ops::RangeInclusive<u16> = 10..=1000;

/// Changes what is said in `wanted`, all of it or nothing.
///
/// # Errors
/// `InvalidArgument`, `FailedPrecondition`.
pub(super) fn update(group: &Group, wanted: &Resources) -> Result<()> {
    apply(&plan(group, wanted)?)
}

/// What has to be written, in order: first what is refused most often.
fn plan(group: &Group, wanted: &Resources) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    memory::plan(group, wanted, &mut writes)?;
    cpu(group, wanted, &mut writes)?;
    cpuset(group, wanted, &mut writes)?;
    pids(group, wanted, &mut writes)?;
    weight(group, wanted, &mut writes)?;
    for throttle in &wanted.throttles {
        self::throttle(group, throttle, &mut writes)?;
    }
    hugetlb(group, wanted, &mut writes)?;
    Ok(writes)
}

/// The error where a controller is not there.
pub(super) fn missing(controller: &str, what: &str) -> Error {
    Error::precondition(format!(
        "{what}: this machine has no {controller} controller for containers; leave it out, or enable the \
         controller"
    ))
}

/// The number in a file that has to be there.
pub(super) fn needed(dir: &Path, name: &str) -> Result<u64> {
    file::number(dir, name)?.ok_or_else(|| {
        Error::precondition(format!(
            "{} is not there; has the container ended?",
            dir.join(name).display()
        ))
    })
}

fn text(dir: &Path, name: &str) -> Result<String> {
    Ok(file::read(dir, name)?.unwrap_or_default().trim().to_owned())
}

/// From the scale of version 1, 2 to 262,144, to that of version 2, 1 to 10,000, so that the default of one
/// is that of the other (runc 1.3.2; `opencontainers/cgroups`, `ConvertCPUSharesToCgroupV2Value`).
fn cpu_weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return 1;
    }
    if shares >= *SHARES.end() {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 262,144, checked above")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10,000 for what is between the two ends"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

fn cpu(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    let (shares, quota, period) =
        (wanted.cpu_shares, wanted.cpu_quota_micros, wanted.cpu_period_micros);
    if shares > 0 {
        const WHAT: &str = "cpu shares";
        if !SHARES.contains(&shares) {
            return Err(Error::invalid(format!("{WHAT} {shares}: write 2 to 262144")));
        }
        if let Some(dir) = group.with("cpu.shares") {
            let old = needed(dir, "cpu.shares")?;
            writes.push(Write::new(WHAT, dir, "cpu.shares", shares, old));
        } else if let Some(dir) = group.with("cpu.weight") {
            let old = needed(dir, "cpu.weight")?;
            writes.push(Write::new(WHAT, dir, "cpu.weight", cpu_weight(shares), old));
        } else {
            return Err(missing("cpu", WHAT));
        }
    }
    if quota == 0 && period == 0 {
        return Ok(());
    }
    const QUOTA: &str = "cpu quota";
    const PERIOD: &str = "cpu period";
    if let Some(dir) = group.with("cpu.cfs_quota_us") {
        let old_period = needed(dir, "cpu.cfs_period_us")?;
        let mut both = Vec::new();
        if period > 0 {
            both.push(Write::new(PERIOD, dir, "cpu.cfs_period_us", period, old_period));
        }
        if quota > 0 {
            // -1 where there is none.
            let old = text(dir, "cpu.cfs_quota_us")?;
            both.push(Write::new(QUOTA, dir, "cpu.cfs_quota_us", quota, old));
        }
        // In between it must not be more than before or after, of which the cgroup above may have no more.
        if period < old_period {
            both.reverse();
        }
        writes.extend(both);
    } else if let Some(dir) = group.with("cpu.max") {
        let old = text(dir, "cpu.max")?;
        let (old_quota, old_period) = old.split_once(' ').unwrap_or((&old, "100000"));
        let quota = if quota > 0 { quota.to_string() } else { old_quota.to_owned() };
        let period = if period > 0 { period.to_string() } else { old_period.to_owned() };
        writes.push(Write::new(
            "cpu quota and period",
            dir,
            "cpu.max",
            format!("{quota} {period}"),
            &old,
        ));
    } else {
        return Err(missing("cpu", QUOTA));
    }
    Ok(())
}

fn cpuset(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    let both = [
        ("processors", "cpuset.cpus", &wanted.cpuset_cpus),
        ("memory nodes", "cpuset.mems", &wanted.cpuset_mems),
    ];
    for (what, name, list) in both {
        if list.is_empty() {
            continue;
        }
        let dir = group.with(name).ok_or_else(|| missing("cpuset", what))?;
        if !list.bytes().all(|b| b.is_ascii_digit() || b"-,".contains(&b)) {
            return Err(Error::invalid(format!(
                "{what} {list:?}: write numbers and ranges, such as 0-3,7"
            )));
        }
        writes.push(Write::new(what, dir, name, list, text(dir, name)?));
    }
    Ok(())
}

fn pids(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    const WHAT: &str = "limit of processes";
    if wanted.pids_limit > 0 {
        let dir = group.with("pids.max").ok_or_else(|| missing("pids", WHAT))?;
        writes.push(Write::new(WHAT, dir, "pids.max", wanted.pids_limit, text(dir, "pids.max")?));
    }
    Ok(())
}

fn weight(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    const WHAT: &str = "blkio weight";
    let weight = wanted.blkio_weight;
    if weight == 0 {
        return Ok(());
    }
    if !WEIGHT.contains(&weight) {
        return Err(Error::invalid(format!("{WHAT} {weight}: write 10 to 1000")));
    }
    // Those of the scheduler `bfq` have the scale of version 1 in both; that of `io.cost` is 1 to 10,000.
    let wide = 1 + (u32::from(weight) - 10) * 9999 / 990;
    let files = [
        ("blkio.weight", u32::from(weight)),
        ("blkio.bfq.weight", u32::from(weight)),
        ("io.bfq.weight", u32::from(weight)),
        ("io.weight", wide),
    ];
    let mut is_there = false;
    for (name, value) in files {
        if let Some(dir) = group.with(name) {
            // Version 2: `default 100`, and then lines for devices.
            let old = text(dir, name)?;
            let old = old.lines().next().unwrap_or_default();
            let old = old.strip_prefix("default ").unwrap_or(old);
            writes.push(Write::new(WHAT, dir, name, value, old));
            is_there = true;
        }
    }
    if is_there { Ok(()) } else { Err(missing("blkio weight", WHAT)) }
}

/// `major:minor` of a block device.
fn device(path: &str) -> Result<String> {
    let bad = |why: &str| Error::invalid(format!("device {path:?}: {why}"));
    if !path.starts_with('/') {
        return Err(bad("write the absolute path of a block device, such as /dev/sda"));
    }
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(bad("it is not there"));
        }
        Err(error) => return Err(Error::io(format!("device {path:?}"), error)),
    };
    if !about.file_type().is_block_device() {
        return Err(bad("it is no block device"));
    }
    Ok(format!("{}:{}", rustix::fs::major(about.rdev()), rustix::fs::minor(about.rdev())))
}

fn throttle(group: &Group, wanted: &Throttle, writes: &mut Vec<Write>) -> Result<()> {
    throttle_of(group, &device(&wanted.device)?, wanted, writes)
}

fn throttle_of(
    group: &Group,
    number: &str,
    wanted: &Throttle,
    writes: &mut Vec<Write>,
) -> Result<()> {
    let limits = [
        ("bytes read in a second", "read_bps", "rbps", wanted.read_bytes_per_second),
        ("bytes written in a second", "write_bps", "wbps", wanted.write_bytes_per_second),
        ("reads in a second", "read_iops", "riops", wanted.reads_per_second),
        ("writes in a second", "write_iops", "wiops", wanted.writes_per_second),
    ];
    // Lines `major:minor` and the limits.
    let old = |dir: &Path, name: &str| -> Result<Option<String>> {
        let text = text(dir, name)?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.into_iter().find_map(|(of, limits)| (of == number).then(|| limits.to_owned())))
    };
    for (what, one, two, limit) in limits {
        if limit == 0 {
            continue;
        }
        let name = format!("blkio.throttle.{one}_device");
        if let Some(dir) = group.with(&name) {
            // 0 takes a limit away.
            let before = old(dir, &name)?.unwrap_or_else(|| "0".into());
            let (value, before) = (format!("{number} {limit}"), format!("{number} {before}"));
            writes.push(Write::new(what, dir, &name, value, before));
        } else if let Some(dir) = group.with("io.max") {
            let none = || "rbps=max wbps=max riops=max wiops=max".into();
            let before = old(dir, "io.max")?.unwrap_or_else(none);
            let (value, before) = (format!("{number} {two}={limit}"), format!("{number} {before}"));
            writes.push(Write::new(what, dir, "io.max", value, before));
        } else {
            return Err(missing("blkio", what));
        }
    }
    Ok(())
}

fn hugetlb(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    const WHAT: &str = "limit of huge pages";
    for limit in &wanted.hugetlb {
        let size = limit.page_size.as_str();
        // It becomes a part of a file's name.
        let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
        let is_size = digits.len() + 2 == size.len()
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_size {
            return Err(Error::invalid(format!(
                "{WHAT}: size {size:?}: write one such as 2MB or 1GB"
            )));
        }
        if limit.bytes == 0 {
            continue;
        }
        let names = ["limit_in_bytes", "max"].map(|end| format!("hugetlb.{size}.{end}"));
        let found = names.iter().find_map(|name| Some((group.with(name)?, name)));
        let Some((dir, name)) = found else {
            return Err(missing(&format!("hugetlb {size}"), WHAT));
        };
        writes.push(Write::new(WHAT, dir, name, limit.bytes, text(dir, name)?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use capstan_sdk::contract::resources::Hugetlb;

    /// A directory with files, and its group.
    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), format!("{text}\n")).unwrap();
        }
        let group = Group { dirs: vec![dir.path().to_owned()] };
        (dir, group)
    }

    /// The writes, as `file=value (before)`.
    fn planned(files: &[(&str, &str)], wanted: &Resources) -> Result<Vec<String>> {
        let (_dir, group) = fake(files);
        let text = |write: &Write| {
            let name = write.path.file_name().unwrap().to_string_lossy();
            format!("{name}={} ({})", write.value, write.before)
        };
        Ok(plan(&group, wanted)?.iter().map(text).collect())
    }

    fn check(files: &[(&str, &str)], wanted: &Resources, want: &[&str]) {
        assert_eq!(planned(files, wanted).unwrap(), want, "{wanted:?}");
    }

    fn refused(files: &[(&str, &str)], wanted: &Resources, class: Class, part: &str) {
        let error = planned(files, wanted).unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        assert!(error.message().contains(part), "{error}");
    }

    #[test]
    fn shares_become_weights() {
        // The ends and the default of one version are those of the other.
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        let weights: Vec<u64> = (2..3000).chain([100_000, 262_143]).map(cpu_weight).collect();
        assert!(weights.is_sorted(), "more shares are never less weight");
        let shares = |cpu_shares| Resources { cpu_shares, ..Resources::default() };
        check(&[("cpu.shares", "1024")], &shares(512), &["cpu.shares=512 (1024)"]);
        check(&[("cpu.weight", "39")], &shares(1024), &["cpu.weight=100 (39)"]);
        refused(&[("cpu.shares", "1024")], &shares(1), Class::InvalidArgument, "2 to 262144");
        refused(&[], &shares(5), Class::FailedPrecondition, "no cpu controller");
    }

    #[test]
    fn quota_and_period_are_written_so_that_neither_is_ever_more() {
        let cpu = |cpu_quota_micros, cpu_period_micros| Resources {
            cpu_quota_micros,
            cpu_period_micros,
            ..Resources::default()
        };
        let one = [("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")];
        let quota = "cpu.cfs_quota_us=5000 (-1)";
        check(&one, &cpu(5000, 0), &[quota]);
        check(&one, &cpu(5000, 50_000), &[quota, "cpu.cfs_period_us=50000 (100000)"]);
        check(&one, &cpu(5000, 200_000), &["cpu.cfs_period_us=200000 (100000)", quota]);
        let two = [("cpu.max", "max 100000")];
        check(&two, &cpu(5000, 0), &["cpu.max=5000 100000 (max 100000)"]);
        check(&two, &cpu(0, 50_000), &["cpu.max=max 50000 (max 100000)"]);
        check(&two, &cpu(5000, 50_000), &["cpu.max=5000 50000 (max 100000)"]);
        refused(&[], &cpu(5000, 0), Class::FailedPrecondition, "no cpu controller");
    }

    #[test]
    fn the_rest_is_found_on_both_versions() {
        let none = Resources::default;
        let pids = Resources { pids_limit: 7, ..none() };
        check(&[("pids.max", "max")], &pids, &["pids.max=7 (max)"]);
        refused(&[], &pids, Class::FailedPrecondition, "no pids controller");
        let cpus = Resources { cpuset_cpus: "0-1,3".into(), ..none() };
        check(&[("cpuset.cpus", "0-7")], &cpus, &["cpuset.cpus=0-1,3 (0-7)"]);
        let mems = Resources { cpuset_mems: "0\n".into(), ..none() };
        refused(&[("cpuset.mems", "")], &mems, Class::InvalidArgument, "memory nodes");
        let weight = Resources { blkio_weight: 500, ..none() };
        check(&[("blkio.bfq.weight", "100")], &weight, &["blkio.bfq.weight=500 (100)"]);
        let two = [("io.weight", "default 100"), ("io.bfq.weight", "default 100\n8:0 5")];
        check(&two, &weight, &["io.bfq.weight=500 (100)", "io.weight=4950 (100)"]);
        let weight = Resources { blkio_weight: 5, ..none() };
        refused(&two, &weight, Class::InvalidArgument, "10 to 1000");
        let huge = |page_size: &str| {
            let limit = Hugetlb { page_size: page_size.into(), bytes: 4 << 20 };
            Resources { hugetlb: vec![limit], ..none() }
        };
        let one = [("hugetlb.2MB.limit_in_bytes", "9223372036854771712")];
        let want = "hugetlb.2MB.limit_in_bytes=4194304 (9223372036854771712)";
        check(&one, &huge("2MB"), &[want]);
        check(&[("hugetlb.1GB.max", "max")], &huge("1GB"), &["hugetlb.1GB.max=4194304 (max)"]);
        refused(&one, &huge("1GB"), Class::FailedPrecondition, "no hugetlb 1GB controller");
        for bad in ["", "MB", "2", "../2MB", "2MB/x", "2MBMB", "x2MB"] {
            refused(&one, &huge(bad), Class::InvalidArgument, "huge pages");
        }
    }

    #[test]
    fn throttles_are_set_back_to_what_they_were() {
        let wanted = Throttle {
            device: String::new(),
            read_bytes_per_second: 1000,
            writes_per_second: 5,
            ..Throttle::default()
        };
        let planned = |files: &[(&str, &str)]| -> Result<Vec<String>> {
            let (_dir, group) = fake(files);
            let mut writes = Vec::new();
            throttle_of(&group, "8:16", &wanted, &mut writes)?;
            Ok(writes.iter().map(|write| format!("{} ({})", write.value, write.before)).collect())
        };
        let one = [
            ("blkio.throttle.read_bps_device", "8:0 7\n8:16 77"),
            ("blkio.throttle.write_iops_device", "8:160 7"),
        ];
        assert_eq!(planned(&one).unwrap(), ["8:16 1000 (8:16 77)", "8:16 5 (8:16 0)"]);
        let was = "8:16 rbps=1 wbps=max riops=max wiops=2";
        let none = "8:16 rbps=max wbps=max riops=max wiops=max";
        let two = |before: &str| {
            vec![format!("8:16 rbps=1000 ({before})"), format!("8:16 wiops=5 ({before})")]
        };
        assert_eq!(planned(&[("io.max", was)]).unwrap(), two(was));
        assert_eq!(planned(&[("io.max", "")]).unwrap(), two(none));
        assert_eq!(planned(&[]).unwrap_err().class(), Class::FailedPrecondition);
    }

    #[test]
    fn only_block_devices_are_throttled() {
        for (path, part) in [
            ("sda", "absolute path"),
            ("/dev/null", "no block device"),
            ("/does/not/exist", "not there"),
        ] {
            let error = device(path).unwrap_err();
            assert_eq!(error.class(), Class::InvalidArgument, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn an_update_is_all_or_nothing() {
        let (dir, group) = fake(&[
            ("memory.max", "33554432"),
            ("memory.swap.max", "0"),
            ("cpu.max", "max 100000"),
            ("pids.max", "50"),
        ]);
        let read =
            |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().trim().to_owned();
        let mut wanted = Resources {
            memory_bytes: 64 << 20,
            cpu_quota_micros: 50_000,
            pids_limit: 10,
            ..Resources::default()
        };
        update(&group, &wanted).unwrap();
        let now = ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map(read);
        assert_eq!(now, ["67108864", "0", "50000 100000", "10"]);
        // What is missing is found before anything is written.
        fs::remove_file(dir.path().join("pids.max")).unwrap();
        wanted.memory_bytes = 96 << 20;
        assert_eq!(update(&group, &wanted).unwrap_err().class(), Class::FailedPrecondition);
        assert_eq!(read("memory.max"), "67108864", "nothing was written");
    }
}
