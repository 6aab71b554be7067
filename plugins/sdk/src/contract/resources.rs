//! Limits of a container, the same for cgroups v1 and v2.

/// What a container may use (container.capnp, `Resources`). 0 or empty: nothing was said; in an update
/// that leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// In bytes.
    pub memory_bytes: u64,
    /// Memory and swap together, in bytes; 0 with a memory limit = the same, so no swap.
    pub memory_swap_bytes: u64,
    /// What it is pushed back to when the machine is short of memory, in bytes.
    pub memory_reservation_bytes: u64,
    /// Relative weight, 2 to 262,144; 1024 is the usual.
    pub cpu_shares: u64,
    /// In each period, in microseconds.
    pub cpu_quota_micros: u64,
    /// 0 = 100,000.
    pub cpu_period_micros: u64,
    /// `0-3,7`.
    pub cpuset_cpus: String,
    /// NUMA nodes.
    pub cpuset_mems: String,
    /// Processes and threads.
    pub pids_limit: u64,
    /// Relative weight, 10 to 1000.
    pub blkio_weight: u16,
    /// Of huge pages.
    pub hugetlb: Vec<Hugetlb>,
    /// Of block devices.
    pub throttles: Vec<Throttle>,
}

/// A limit of huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    /// `2MB`.
    pub page_size: String,
    /// Of all such pages together.
    pub bytes: u64,
}

/// How fast a block device may be used; 0 = no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Path of the device.
    pub device: String,
    /// Bytes in a second.
    pub read_bytes_per_second: u64,
    /// Bytes in a second.
    pub write_bytes_per_second: u64,
    /// Operations in a second.
    pub reads_per_second: u64,
    /// Operations in a second.
    pub writes_per_second: u64,
}
