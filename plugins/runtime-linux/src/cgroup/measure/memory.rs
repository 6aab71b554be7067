//! Memory: what is used, what it is used for, what was refused, and what was killed for want of it.

use std::path::Path;

use capstan_sdk::Result;

use super::super::file::UNLIMITED;
use super::super::{Group, file, oom};
use super::Samples;

/// Name, what it is, and what version 2 calls it; empty = it does not count that. Faults and pages that came
/// and went are numbers, whatever the unit in the names says, which are older than we are.
const STAT: [(&str, &str, &str); 15] = [
    ("cache", "Cache of files.", "file"),
    ("rss", "Memory that is no file's.", "anon"),
    ("rss_huge", "Memory that is no file's, in transparent huge pages.", "anon_thp"),
    ("mapped_file", "Files that are mapped.", "file_mapped"),
    ("dirty", "Files that wait to be written.", "file_dirty"),
    ("writeback", "Files that are being written.", "file_writeback"),
    ("pgpgin", "Number of pages that were charged.", ""),
    ("pgpgout", "Number of pages that were given back.", ""),
    ("pgfault", "Number of page faults.", "pgfault"),
    ("pgmajfault", "Number of page faults that had to read.", "pgmajfault"),
    ("inactive_anon", "Memory that is no file's and was not used of late.", "inactive_anon"),
    ("active_anon", "Memory that is no file's and was used of late.", "active_anon"),
    ("inactive_file", "Cache of files that was not used of late.", "inactive_file"),
    ("active_file", "Cache of files that was used of late.", "active_file"),
    ("unevictable", "Memory that cannot be given back.", "unevictable"),
];

/// Four of each kind of memory: name, file of version 1, and what it is.
const OF: [(&str, &str, &str); 4] = [
    ("usage", "memory", "Memory"),
    ("swap", "memory.memsw", "Memory and swap together"),
    ("kernel", "memory.kmem", "Memory of the kernel"),
    ("kerneltcp", "memory.kmem.tcp", "Memory of TCP's buffers"),
];

pub(super) fn measure(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    if let Some(dir) = group.with("memory.limit_in_bytes") {
        version_1(dir, out)?;
    } else if let Some(dir) = group.with("memory.current") {
        version_2(dir, out)?;
    }
    if let Some(counter) = oom::Counter::find(group) {
        let help = "Processes that the kernel killed for want of memory.";
        out.maybe("memory_oom_total", help, counter.read()?);
    }
    Ok(())
}

fn version_1(dir: &Path, out: &mut Samples<'_>) -> Result<()> {
    let stat = file::read(dir, "memory.stat")?.unwrap_or_default();
    for (name, help, _) in STAT {
        let own = file::keyed(&stat, name);
        out.maybe(&format!("memory_{name}_bytes"), help, own);
        let total = file::keyed(&stat, &format!("total_{name}"));
        out.maybe(&format!("memory_total_{name}_bytes"), &with_children(help), total);
    }
    hierarchical(
        out,
        file::keyed(&stat, "hierarchical_memory_limit"),
        file::keyed(&stat, "hierarchical_memsw_limit"),
    );
    for (name, file, of) in OF {
        let number = |end: &str| file::number(dir, &format!("{file}.{end}"));
        let values = [
            number("failcnt")?,
            number("limit_in_bytes")?,
            number("max_usage_in_bytes")?,
            number("usage_in_bytes")?,
        ];
        four(out, name, of, values);
    }
    Ok(())
}

fn with_children(help: &str) -> String {
    format!("{} With the cgroups below.", help)
}

fn hierarchical(out: &mut Samples<'_>, memory: Option<u64>, together: Option<u64>) {
    let help = "Limit of memory, of this cgroup and those above.";
    out.maybe("memory_hierarchical_memory_limit_bytes", help, memory);
    let help = "Limit of memory and swap together, of this cgroup and those above.";
    out.maybe("memory_hierarchical_memsw_limit_bytes", help, together);
}

/// Failures, limit, most and now.
fn four(out: &mut Samples<'_>, name: &str, of: &str, values: [Option<u64>; 4]) {
    let each = [
        ("failcnt_total", "how often the limit was reached"),
        ("limit_bytes", "limit"),
        ("max_bytes", "most that was used"),
        ("usage_bytes", "used"),
    ];
    for ((end, what), value) in each.into_iter().zip(values) {
        out.maybe(&format!("memory_{name}_{end}"), &format!("{of}: {what}."), value);
    }
}

fn version_2(dir: &Path, out: &mut Samples<'_>) -> Result<()> {
    let stat = file::read(dir, "memory.stat")?.unwrap_or_default();
    for (name, help, key) in STAT.iter().filter(|(_, _, key)| !key.is_empty()) {
        // It always counts what is below too.
        let value = file::keyed(&stat, key);
        out.maybe(&format!("memory_{name}_bytes"), help, value);
        out.maybe(&format!("memory_total_{name}_bytes"), &with_children(help), value);
    }
    let number = |name: &str| file::number(dir, name);
    let failed = |name: &str| -> Result<Option<u64>> {
        Ok(file::read(dir, name)?.and_then(|events| file::keyed(&events, "max")))
    };
    let limit = number("memory.max")?;
    let usage = number("memory.current")?;
    hierarchical(out, lowest(dir, limit, memory_of)?, lowest(dir, limit, together_of)?);
    let values = [failed("memory.events")?, limit, number("memory.peak")?, usage];
    four(out, OF[0].0, OF[0].2, values);
    // Swap is counted for itself there; the sum of the two is what version 1 counts. Their peaks need not
    // have been at the same time.
    let used = usage.zip(number("memory.swap.current")?).map(|(memory, swap)| memory + swap);
    let values = [failed("memory.swap.events")?, together_of(dir)?, None, used];
    four(out, OF[1].0, OF[1].2, values);
    for (of, key) in [(OF[2], "kernel"), (OF[3], "sock")] {
        four(out, of.0, of.2, [None, None, None, file::keyed(&stat, key)]);
    }
    Ok(())
}

fn memory_of(dir: &Path) -> Result<Option<u64>> {
    file::number(dir, "memory.max")
}

fn together_of(dir: &Path) -> Result<Option<u64>> {
    let both = memory_of(dir)?.zip(file::number(dir, "memory.swap.max")?);
    Ok(both.map(|(memory, swap)| memory.saturating_add(swap).min(UNLIMITED)))
}

/// The lowest of a cgroup's limits and of those above it; `None` if it has none itself.
fn lowest(
    dir: &Path,
    own: Option<u64>,
    limit: impl Fn(&Path) -> Result<Option<u64>>,
) -> Result<Option<u64>> {
    if own.is_none() {
        return Ok(None);
    }
    let mut lowest = None;
    for dir in dir.ancestors() {
        // The root of the hierarchy has no limit, and no such file.
        let Some(limit) = limit(dir)? else { break };
        lowest = Some(lowest.map_or(limit, |lowest: u64| lowest.min(limit)));
    }
    Ok(lowest)
}
