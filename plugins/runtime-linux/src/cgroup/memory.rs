//! Limits of memory. In which order they are written matters: with version 1 the limit of memory and swap
//! together is never below that of memory alone, at no time.

use std::path::Path;

use capstan_sdk::contract::resources::Resources;
use capstan_sdk::{Error, Result};

use super::Group;
use super::file::{self, UNLIMITED};
use super::limit::{missing, needed};
use super::plan::{Write, in_use};

const LIMIT: &str = "memory limit";
const SWAP: &str = "limit of memory and swap together";
const RESERVATION: &str = "memory reservation";

/// What has to be written.
pub(super) fn plan(group: &Group, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    if let (memory @ 1.., together @ 1..) = (wanted.memory_bytes, wanted.memory_swap_bytes)
        && together < memory
    {
        return Err(Error::invalid(format!(
            "{SWAP} {together}: it includes memory, of which the limit is {memory}; write at least as much"
        )));
    }
    if let Some(dir) = group.with("memory.limit_in_bytes") {
        return version_1(dir, wanted, writes);
    }
    match group.with("memory.max") {
        Some(dir) => version_2(dir, wanted, writes),
        None if wanted.memory_bytes > 0 => Err(missing("memory", LIMIT)),
        None if wanted.memory_swap_bytes > 0 => Err(missing("memory", SWAP)),
        None if wanted.memory_reservation_bytes > 0 => Err(missing("memory", RESERVATION)),
        None => Ok(()),
    }
}

/// Memory and swap together after an update that gives a limit of memory and says nothing of swap: as much
/// swap as before; none, if until now there was no limit at all. `None`: it stays without a limit.
fn together(memory: u64, old_memory: u64, old_together: u64) -> Option<u64> {
    if old_memory >= UNLIMITED {
        return Some(memory);
    }
    (old_together < UNLIMITED)
        .then(|| memory.saturating_add(old_together.saturating_sub(old_memory)))
}

fn version_1(dir: &Path, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const TOGETHER: &str = "memory.memsw.limit_in_bytes";
    const SOFT: &str = "memory.soft_limit_in_bytes";
    let old_memory = needed(dir, MEMORY)?;
    let old_together = file::number(dir, TOGETHER)?;
    let new_together = match (wanted.memory_swap_bytes, wanted.memory_bytes, old_together) {
        (0, 0, _) | (0, _, None) => None,
        (0, memory, Some(old_together)) => together(memory, old_memory, old_together),
        (_, _, None) => return Err(missing("swap", SWAP)),
        (given, 0, _) if given < old_memory => {
            return Err(Error::invalid(format!(
                "{SWAP} {given}: it includes memory, of which the limit is {old_memory}; write at least \
                 as much"
            )));
        }
        (given, ..) => Some(given),
    };
    let memory = (wanted.memory_bytes > 0)
        .then(|| Write::new(LIMIT, dir, MEMORY, wanted.memory_bytes, old_memory));
    let swap = new_together.map(|new| {
        let old = old_together.unwrap_or(UNLIMITED);
        Write::new(SWAP, dir, TOGETHER, new, old)
    });
    match new_together > old_together {
        true => writes.extend(swap.into_iter().chain(memory)),
        false => writes.extend(memory.into_iter().chain(swap)),
    }
    if wanted.memory_reservation_bytes > 0 {
        let old = needed(dir, SOFT)?;
        writes.push(Write::new(RESERVATION, dir, SOFT, wanted.memory_reservation_bytes, old));
    }
    Ok(())
}

/// `max`, or the number.
fn words(bytes: u64) -> String {
    if bytes >= UNLIMITED { "max".into() } else { bytes.to_string() }
}

fn version_2(dir: &Path, wanted: &Resources, writes: &mut Vec<Write>) -> Result<()> {
    let old_memory = needed(dir, "memory.max")?;
    let memory = match wanted.memory_bytes {
        0 => old_memory,
        memory => memory,
    };
    let old_swap = file::number(dir, "memory.swap.max")?;
    // Here swap is counted for itself.
    let new_swap = match (wanted.memory_swap_bytes, old_swap) {
        (0, Some(_)) if wanted.memory_bytes > 0 && old_memory >= UNLIMITED => Some(0),
        (0, _) => None,
        (_, None) => return Err(missing("swap", SWAP)),
        (given, _) if memory >= UNLIMITED => {
            return Err(Error::invalid(format!(
                "{SWAP} {given}: there is no limit of memory; give one with it"
            )));
        }
        (given, _) => Some(given.checked_sub(memory).ok_or_else(|| {
            Error::invalid(format!(
                "{SWAP} {given}: it includes memory, of which the limit is {memory}; write at least as much"
            ))
        })?),
    };
    if wanted.memory_bytes > 0 {
        check_usage(dir, memory)?;
        writes.push(Write::new(LIMIT, dir, "memory.max", memory, words(old_memory)));
    }
    if let Some(new) = new_swap {
        let old = words(old_swap.unwrap_or(UNLIMITED));
        writes.push(Write::new(SWAP, dir, "memory.swap.max", new, old));
    }
    if wanted.memory_reservation_bytes > 0 {
        let old = words(needed(dir, "memory.low")?);
        writes.push(Write::new(
            RESERVATION,
            dir,
            "memory.low",
            wanted.memory_reservation_bytes,
            old,
        ));
    }
    Ok(())
}

/// Version 1 refuses a limit below what is used. Version 2 takes it and kills until it holds: so it is refused
/// here if it is below what cannot be given back, which is all but the cache of files.
fn check_usage(dir: &Path, memory: u64) -> Result<()> {
    let Some(usage) = file::number(dir, "memory.current")? else { return Ok(()) };
    let stat = file::read(dir, "memory.stat")?.unwrap_or_default();
    let cache = ["inactive_file", "active_file"].map(|key| file::keyed(&stat, key).unwrap_or(0));
    match usage.saturating_sub(cache.iter().sum()) > memory {
        true => Err(in_use(LIMIT, &memory.to_string(), &usage.to_string())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use std::fs;

    const MIB: u64 = 1 << 20;

    /// The writes, as `file=value`.
    fn planned(files: &[(&str, &str)], wanted: &Resources) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), format!("{text}\n")).unwrap();
        }
        let group = Group { dirs: vec![dir.path().to_owned()] };
        let mut writes = Vec::new();
        plan(&group, wanted, &mut writes)?;
        let text = |write: &Write| {
            format!("{}={}", write.path.file_name().unwrap().to_string_lossy(), write.value)
        };
        Ok(writes.iter().map(text).collect())
    }

    fn limits(memory: u64, together: u64) -> Resources {
        let (memory_bytes, memory_swap_bytes) = (memory * MIB, together * MIB);
        Resources { memory_bytes, memory_swap_bytes, ..Resources::default() }
    }

    fn old_version_1(memory: u64, together: u64) -> [(&'static str, String); 2] {
        [
            ("memory.limit_in_bytes", memory.to_string()),
            ("memory.memsw.limit_in_bytes", together.to_string()),
        ]
    }

    #[test]
    fn version_1_is_never_below_itself() {
        let check = |old: (u64, u64), new: (u64, u64), want: &[(&str, u64)]| {
            let files = old_version_1(old.0, old.1);
            let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
            let want: Vec<String> = want
                .iter()
                .map(|(name, mib)| format!("memory.{name}limit_in_bytes={}", mib * MIB))
                .collect();
            assert_eq!(planned(&files, &limits(new.0, new.1)).unwrap(), want, "{old:?} {new:?}");
        };
        // It grows: both together first.
        check((32 * MIB, 32 * MIB), (64, 0), &[("memsw.", 64), ("", 64)]);
        check((32 * MIB, 64 * MIB), (64, 0), &[("memsw.", 96), ("", 64)]);
        check((32 * MIB, 32 * MIB), (64, 128), &[("memsw.", 128), ("", 64)]);
        // It shrinks: memory first.
        check((64 * MIB, 64 * MIB), (32, 0), &[("", 32), ("memsw.", 32)]);
        check((64 * MIB, 128 * MIB), (32, 32), &[("", 32), ("memsw.", 32)]);
        // There was no limit, so there is no swap now; or swap has none, and keeps that.
        check((UNLIMITED, UNLIMITED), (32, 0), &[("", 32), ("memsw.", 32)]);
        check((64 * MIB, UNLIMITED), (32, 0), &[("", 32)]);
        check((64 * MIB, 64 * MIB), (0, 96), &[("memsw.", 96)]);
        check((64 * MIB, 64 * MIB), (0, 0), &[]);
    }

    #[test]
    fn version_2_counts_swap_for_itself() {
        let check = |old: (&str, &str), new: (u64, u64), want: &[&str]| {
            let files = [("memory.max", old.0), ("memory.swap.max", old.1)];
            assert_eq!(planned(&files, &limits(new.0, new.1)).unwrap(), want, "{old:?} {new:?}");
        };
        check(("33554432", "0"), (64, 0), &["memory.max=67108864"]);
        check(("33554432", "0"), (64, 96), &["memory.max=67108864", "memory.swap.max=33554432"]);
        check(("max", "max"), (64, 0), &["memory.max=67108864", "memory.swap.max=0"]);
        check(("33554432", "max"), (64, 0), &["memory.max=67108864"]);
        check(("33554432", "0"), (0, 64), &["memory.swap.max=33554432"]);
        let reserved = Resources { memory_reservation_bytes: 5, ..Resources::default() };
        let files = [("memory.max", "max"), ("memory.low", "0")];
        assert_eq!(planned(&files, &reserved).unwrap(), ["memory.low=5"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |files: &[(&str, &str)], new: (u64, u64), class: Class, part: &str| {
            let error = planned(files, &limits(new.0, new.1)).unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            assert!(error.message().contains(part), "{error}");
        };
        let two = [("memory.max", "67108864"), ("memory.swap.max", "0")];
        check(&two, (64, 32), Class::InvalidArgument, "33554432");
        check(&two, (0, 32), Class::InvalidArgument, "67108864");
        let one =
            [("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "67108864")];
        check(&one, (0, 32), Class::InvalidArgument, "67108864");
        let none = [("memory.max", "max"), ("memory.swap.max", "max")];
        check(&none, (0, 32), Class::InvalidArgument, "no limit of memory");
        check(&one[..1], (64, 96), Class::FailedPrecondition, "no swap controller");
        check(&[], (64, 0), Class::FailedPrecondition, "no memory controller");
        let used = [
            ("memory.max", "max"),
            ("memory.current", "100000000"),
            ("memory.stat", "anon 60000000\ninactive_file 10000000\nactive_file 20000000"),
        ];
        check(&used, (64, 0), Class::FailedPrecondition, "uses 100000000 bytes");
        assert!(planned(&used, &limits(80, 0)).is_ok(), "the cache can be given back");
    }
}
