//! The flags that limit what a container uses: of memory, processors, processes, devices.

use capstan_client::schema::container_capnp::resources;
use clap::Args;

use crate::cmd::spec::{bytes, cpus, swap};

/// The period of the kernel, in microseconds, of which `--cpus` is a part.
const CPU_PERIOD_MICROS: u64 = 100_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct LimitFlags {
    /// Memory limit, in bytes or with k, m, g
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Limit of memory and swap together, or -1 for none [default: the memory limit, so no swap]
    #[arg(long, value_name = "BYTES", value_parser = swap, allow_negative_numbers = true)]
    memory_swap: Option<u64>,
    /// Memory to which it is pushed back when the machine is short of it
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_reservation: Option<u64>,
    /// CPU limit, in CPUs, such as 1.5
    #[arg(long, value_name = "N", value_parser = quota, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<u64>,
    /// Weight among others that want processors, 2 to 262144 [usual: 1024]
    #[arg(long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "US")]
    cpu_quota: Option<u64>,
    /// Length of a period, in microseconds [usual: 100000]
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Processors it may use, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use, such as 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit of processes and threads
    #[arg(long, value_name = "N")]
    pids_limit: Option<u64>,
    /// Weight among others that want block devices, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Bytes that may be read of a block device in a second: /dev/sda:1m
    #[arg(long, value_name = "DEV:BYTES", value_parser = device_bytes)]
    device_read_bps: Vec<Rate>,
    /// Bytes that may be written to a block device in a second
    #[arg(long, value_name = "DEV:BYTES", value_parser = device_bytes)]
    device_write_bps: Vec<Rate>,
    /// Reads of a block device in a second: /dev/sda:100
    #[arg(long, value_name = "DEV:N", value_parser = device_count)]
    device_read_iops: Vec<Rate>,
    /// Writes to a block device in a second
    #[arg(long, value_name = "DEV:N", value_parser = device_count)]
    device_write_iops: Vec<Rate>,
    /// Limit of huge pages of one size: 2MB:64m
    #[arg(long, value_name = "SIZE:BYTES", value_parser = pages)]
    hugetlb: Vec<Rate>,
}

/// A device, or a size of pages, and what is allowed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rate {
    of: String,
    limit: u64,
}

/// `1.5` CPUs as microseconds of each period.
fn quota(text: &str) -> Result<u64, String> {
    // The kernel takes no less than a millisecond.
    cpus(text).map(|millis| (millis.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(1000))
}

fn rate(
    text: &str,
    what: &str,
    limit: impl Fn(&str) -> Result<u64, String>,
) -> Result<Rate, String> {
    let bad = || format!("{text:?}: write {what}");
    let (of, amount) = text.rsplit_once(':').ok_or_else(bad)?;
    match limit(amount)? {
        0 => Err(bad()),
        _ if of.is_empty() => Err(bad()),
        limit => Ok(Rate { of: of.into(), limit }),
    }
}

fn device_bytes(text: &str) -> Result<Rate, String> {
    rate(text, "a device and a number of bytes above 0, such as /dev/sda:1m", bytes)
}

fn device_count(text: &str) -> Result<Rate, String> {
    let what = "a device and a number above 0, such as /dev/sda:100";
    rate(text, what, |amount| amount.parse().map_err(|_| format!("{text:?}: write {what}")))
}

fn pages(text: &str) -> Result<Rate, String> {
    rate(text, "a size of pages and a number of bytes above 0, such as 2MB:64m", bytes)
}

impl LimitFlags {
    /// Whether no flag was given.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Writes them into a request.
    pub(crate) fn write(&self, mut out: resources::Builder<'_>) {
        out.set_memory_bytes(self.memory.unwrap_or(0));
        out.set_memory_swap_bytes(self.memory_swap.unwrap_or(0));
        out.set_memory_reservation_bytes(self.memory_reservation.unwrap_or(0));
        out.set_cpu_shares(self.cpu_shares.unwrap_or(0));
        let period = self.cpus.map(|_| CPU_PERIOD_MICROS);
        out.set_cpu_quota_micros(self.cpus.or(self.cpu_quota).unwrap_or(0));
        out.set_cpu_period_micros(period.or(self.cpu_period).unwrap_or(0));
        out.set_cpuset_cpus(self.cpuset_cpus.as_deref().unwrap_or_default());
        out.set_cpuset_mems(self.cpuset_mems.as_deref().unwrap_or_default());
        out.set_pids_limit(self.pids_limit.unwrap_or(0));
        out.set_blkio_weight(self.blkio_weight.unwrap_or(0));
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut list = out.reborrow().init_hugetlb(count(self.hugetlb.len()));
        for (index, limit) in (0..).zip(&self.hugetlb) {
            let mut out = list.reborrow().get(index);
            out.set_page_size(&limit.of);
            out.set_bytes(limit.limit);
        }
        // One entry for each that was given: an entry says nothing of what it leaves at 0.
        let of = [
            &self.device_read_bps,
            &self.device_write_bps,
            &self.device_read_iops,
            &self.device_write_iops,
        ];
        let all = of.iter().map(|rates| rates.len()).sum();
        let mut list = out.init_throttles(count(all));
        let each =
            of.iter().enumerate().flat_map(|(kind, rates)| rates.iter().map(move |r| (kind, r)));
        for (index, (kind, rate)) in (0..).zip(each) {
            let mut out = list.reborrow().get(index);
            out.set_device(&rate.of);
            match kind {
                0 => out.set_read_bytes_per_second(rate.limit),
                1 => out.set_write_bytes_per_second(rate.limit),
                2 => out.set_reads_per_second(rate.limit),
                _ => out.set_writes_per_second(rate.limit),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitFlags,
    }

    fn parse(flags: &[&str]) -> Result<LimitFlags, clap::Error> {
        let words = std::iter::once("capstan").chain(flags.iter().copied());
        Line::try_parse_from(words).map(|line| line.limits)
    }

    #[test]
    fn flags_become_resources() {
        let flags = parse(&[
            "--memory=64m",
            "--cpus=1.5",
            "--cpuset-cpus=0-1",
            "--device-read-bps=/dev/a:1m",
            "--device-write-iops=/dev/b:5",
            "--hugetlb=2MB:4m",
        ])
        .unwrap();
        let mut message = capnp::message::Builder::new_default();
        flags.write(message.init_root());
        let out = message.get_root_as_reader::<resources::Reader<'_>>().unwrap();
        assert_eq!(out.get_memory_bytes(), 64 << 20);
        assert_eq!(out.get_memory_swap_bytes(), 0);
        assert_eq!((out.get_cpu_quota_micros(), out.get_cpu_period_micros()), (150_000, 100_000));
        assert_eq!(out.get_cpuset_cpus().unwrap(), "0-1");
        let throttles = out.get_throttles().unwrap();
        let numbers = |index| {
            let one: resources::throttle::Reader<'_> = throttles.get(index);
            (one.get_read_bytes_per_second(), one.get_writes_per_second())
        };
        assert_eq!((throttles.len(), numbers(0), numbers(1)), (2, (1 << 20, 0), (0, 5)));
        assert_eq!(throttles.get(1).get_device().unwrap(), "/dev/b");
        assert_eq!(out.get_hugetlb().unwrap().get(0).get_bytes(), 4 << 20);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flags in [
            ["--memory=x", ""],
            ["--cpus=0", ""],
            ["--cpus=1", "--cpu-quota=5"],
            ["--device-read-bps=/dev/a", ""],
            ["--device-read-bps=:5", ""],
            ["--device-read-bps=/dev/a:0", ""],
            ["--device-read-iops=/dev/a:1m", ""],
            ["--hugetlb=2MB", ""],
            ["--blkio-weight=70000", ""],
        ] {
            let flags: Vec<&str> = flags.into_iter().filter(|flag| !flag.is_empty()).collect();
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
        assert!(parse(&[]).unwrap().is_empty());
        assert!(!parse(&["--pids-limit=0"]).unwrap().is_empty());
    }
}
