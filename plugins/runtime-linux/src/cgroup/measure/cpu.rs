//! Processor time, and how much of it was held back.

use std::path::Path;

use capstan_sdk::Result;

use super::super::{Group, file};
use super::{Samples, float};

const TOTAL: (&str, &str) = ("cpu_total_nanoseconds", "Processor time.");
const KERNEL: (&str, &str) = ("cpu_kernel_nanoseconds", "Processor time in the kernel.");
const USER: (&str, &str) = ("cpu_user_nanoseconds", "Processor time in programs.");
const PERIODS: (&str, &str) =
    ("cpu_throttle_periods_total", "Periods in which there was a quota of processor time.");
const THROTTLED: (&str, &str) =
    ("cpu_throttled_periods_total", "Periods in which the quota was used up.");
const HELD: (&str, &str) =
    ("cpu_throttled_time_nanoseconds", "For how long processes waited for the next period.");

pub(super) fn measure(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    if let Some(dir) = group.with("cpuacct.usage") {
        times_1(dir, out)?;
    } else if let Some(dir) = group.with("cgroup.controllers") {
        let stat = file::read(dir, "cpu.stat")?.unwrap_or_default();
        for ((name, help), key) in
            [(TOTAL, "usage_usec"), (KERNEL, "system_usec"), (USER, "user_usec")]
        {
            out.maybe(name, help, nanos(&stat, key));
        }
    }
    let (dir, is_version_1) = match (group.with("cpu.shares"), group.with("cpu.weight")) {
        (Some(dir), _) => (dir, true),
        (None, Some(dir)) => (dir, false),
        (None, None) => return Ok(()),
    };
    let stat = file::read(dir, "cpu.stat")?.unwrap_or_default();
    out.maybe(PERIODS.0, PERIODS.1, file::keyed(&stat, "nr_periods"));
    out.maybe(THROTTLED.0, THROTTLED.1, file::keyed(&stat, "nr_throttled"));
    let held = match is_version_1 {
        true => file::keyed(&stat, "throttled_time"),
        false => nanos(&stat, "throttled_usec"),
    };
    out.maybe(HELD.0, HELD.1, held);
    Ok(())
}

fn nanos(stat: &str, key: &str) -> Option<u64> {
    file::keyed(stat, key).map(|micros| micros.saturating_mul(1000))
}

fn times_1(dir: &Path, out: &mut Samples<'_>) -> Result<()> {
    out.maybe(TOTAL.0, TOTAL.1, file::number(dir, "cpuacct.usage")?);
    let stat = file::read(dir, "cpuacct.stat")?.unwrap_or_default();
    let tick = 1e9 / float(rustix::param::clock_ticks_per_second());
    for ((name, help), key) in [(KERNEL, "system"), (USER, "user")] {
        if let Some(ticks) = file::keyed(&stat, key) {
            out.add(name, help, &[], float(ticks) * tick);
        }
    }
    let each = file::read(dir, "cpuacct.usage_percpu")?.unwrap_or_default();
    for (index, nanos) in each.split_whitespace().enumerate() {
        if let Ok(nanos) = nanos.parse() {
            let help = "Processor time on one processor.";
            out.add("per_cpu_nanoseconds", help, &[("cpu", &index.to_string())], float(nanos));
        }
    }
    Ok(())
}
