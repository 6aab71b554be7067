//! Facts about the machine.

use std::fs;

use capstan_sdk::mount;
use nix::sys::utsname::uname;

/// Facts about the machine, as `capstan info` shows them.
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) cgroup: &'static str,
    pub(crate) cpus: u32,
    pub(crate) memory_bytes: u64,
}

impl Host {
    pub(crate) fn read() -> Self {
        let (kernel, architecture) = uname().map_or_else(
            |_| Default::default(),
            |name| {
                let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
                (text(name.release()), text(name.machine()))
            },
        );
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            kernel,
            architecture,
            cgroup: cgroup_layout(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        }
    }
}

/// Which cgroup file systems are mounted.
fn cgroup_layout(mountinfo: &str) -> &'static str {
    let has = |kind: &str| mount::listed(mountinfo).any(|seen| seen.kind == kind);
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        (false, true) => "v2",
        (false, false) => "none",
    }
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_told_from_the_mounts() {
        let v1 = "30 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let v2 = "31 25 0:28 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_layout(v1), "v1");
        assert_eq!(cgroup_layout(v2), "v2");
        assert_eq!(cgroup_layout(&format!("{v1}{v2}")), "hybrid");
        assert_eq!(cgroup_layout("22 1 8:1 / / rw - ext4 /dev/vda rw\n"), "none");
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory("MemTotal:       24620036 kB\nMemFree: 1 kB\n"), 24_620_036 * 1024);
        assert_eq!(memory(""), 0);
    }
}
