//! What cgroups count, as samples. The names are those of containerd's first metrics, which are of version 1;
//! with version 2 they are used where it has a source of the same meaning.
//!
//! A controller that is not there has no samples. Where a file says that there is no limit, the value is
//! 0 for processes, and 2^63 - 4096 for memory, as version 1 has it.

mod cpu;
mod io;
mod memory;
mod pressure;

use capstan_sdk::Result;
use capstan_sdk::contract::metrics::{Kind, Sample};
use capstan_sdk::contract::runtime::TaskKey;

use super::{Group, file};

/// All that there is.
///
/// # Errors
/// A file that is there cannot be read.
pub(super) fn all(group: &Group, key: &TaskKey) -> Result<Vec<Sample>> {
    let mut out = Samples { key, list: Vec::new() };
    pids(group, &mut out)?;
    cpu::measure(group, &mut out)?;
    memory::measure(group, &mut out)?;
    hugetlb(group, &mut out)?;
    io::measure(group, &mut out)?;
    pressure::measure(group, &mut out)?;
    Ok(out.list)
}

/// Samples of one container.
struct Samples<'k> {
    key: &'k TaskKey,
    list: Vec<Sample>,
}

impl Samples<'_> {
    /// Adds `container_<name>`.
    fn add(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let name = format!("container_{name}");
        let sample = match name.ends_with("_total") {
            true => Sample::counter(&name, help, value),
            false => Sample::gauge(&name, help, value),
        };
        debug_assert!(sample.kind == Kind::Gauge || value >= 0.0);
        let sample = sample.with("id", &self.key.id).with("namespace", &self.key.namespace);
        let with = |sample: Sample, (name, value): &(&str, &str)| sample.with(name, value);
        self.list.push(labels.iter().fold(sample, with));
    }

    /// The same, where there is a value.
    fn maybe(&mut self, name: &str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.add(name, help, &[], float(value));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are floats; exact up to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn pids(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    let Some(dir) = group.with("pids.current") else { return Ok(()) };
    let limit = file::read(dir, "pids.max")?;
    // Here `max` is 0.
    let limit = limit.map(|text| text.trim().parse().unwrap_or(0));
    out.maybe("pids_limit", "Limit of processes and threads; 0 = none.", limit);
    let current = file::number(dir, "pids.current")?;
    out.maybe("pids_current", "Processes and threads.", current);
    Ok(())
}

fn hugetlb(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    const USAGE: (&str, &str) = ("hugetlb_usage_bytes", "Huge pages in use.");
    const FAILED: (&str, &str) = ("hugetlb_failcnt_total", "Allocations that the limit refused.");
    const MAX: (&str, &str) = ("hugetlb_max_bytes", "Most that was in use of huge pages.");
    for dir in &group.dirs {
        // Gone meanwhile: then it has nothing to say.
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut sizes: Vec<(String, bool)> = names
            .filter_map(|name| {
                let rest = name.strip_prefix("hugetlb.")?;
                match (rest.strip_suffix(".usage_in_bytes"), rest.strip_suffix(".current")) {
                    (Some(size), _) => Some((size.to_owned(), true)),
                    (None, Some(size)) => Some((size.to_owned(), false)),
                    _ => None,
                }
            })
            // What is reserved is counted apart.
            .filter(|(size, _)| !size.contains('.'))
            .collect();
        sizes.sort();
        for (size, is_version_1) in sizes {
            let number = |end: &str| file::number(dir, &format!("hugetlb.{size}.{end}"));
            let values = match is_version_1 {
                true => {
                    [number("usage_in_bytes")?, number("failcnt")?, number("max_usage_in_bytes")?]
                }
                false => {
                    let events = file::read(dir, &format!("hugetlb.{size}.events"))?;
                    let failed = events.and_then(|events| file::keyed(&events, "max"));
                    [number("current")?, failed, None]
                }
            };
            for ((name, help), value) in [USAGE, FAILED, MAX].into_iter().zip(values) {
                if let Some(value) = value {
                    out.add(name, help, &[("page", &size)], float(value));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::{ContainerId, Namespace};
    use std::collections::BTreeSet;
    use std::fs;

    fn key() -> TaskKey {
        let (namespace, id) = (Namespace::parse("default"), ContainerId::parse("web"));
        TaskKey { namespace: namespace.unwrap(), id: id.unwrap() }
    }

    /// Directories with files, one for each group of them.
    fn measured(dirs: &[&[(&str, &str)]]) -> Vec<Sample> {
        let top = tempfile::tempdir().unwrap();
        let mut group = Group::default();
        for (index, files) in dirs.iter().enumerate() {
            let dir = top.path().join(index.to_string());
            fs::create_dir(&dir).unwrap();
            for (name, text) in *files {
                fs::write(dir.join(name), format!("{text}\n")).unwrap();
            }
            group.dirs.push(dir);
        }
        let samples = all(&group, &key()).unwrap();
        let mut seen = BTreeSet::new();
        for sample in &samples {
            sample.check().unwrap();
            assert_eq!(sample.labels[0], ("id".into(), "web".into()));
            assert_eq!(sample.labels[1], ("namespace".into(), "default".into()));
            assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} is there twice");
        }
        samples
    }

    fn names(samples: &[Sample]) -> BTreeSet<&str> {
        samples.iter().map(|sample| sample.name.as_str()).collect()
    }

    /// The value of `name`, and of the label after those that all have.
    fn value(samples: &[Sample], name: &str, label: Option<&str>) -> f64 {
        let name = format!("container_{name}");
        let is_it = |sample: &&Sample| {
            sample.name == name && sample.labels.get(2).map(|(_, value)| value.as_str()) == label
        };
        let found = samples.iter().find(is_it);
        found.unwrap_or_else(|| panic!("no {name} {label:?}")).value
    }

    const MEMORY: [&str; 15] = [
        "cache",
        "rss",
        "rss_huge",
        "mapped_file",
        "dirty",
        "writeback",
        "pgpgin",
        "pgpgout",
        "pgfault",
        "pgmajfault",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
    ];

    /// Those that a container of version 1 has, by their list.
    fn families() -> BTreeSet<String> {
        let mut names: Vec<String> = [
            "pids_limit",
            "pids_current",
            "cpu_total_nanoseconds",
            "cpu_kernel_nanoseconds",
            "cpu_user_nanoseconds",
            "per_cpu_nanoseconds",
            "cpu_throttle_periods_total",
            "cpu_throttled_periods_total",
            "cpu_throttled_time_nanoseconds",
            "memory_hierarchical_memory_limit_bytes",
            "memory_hierarchical_memsw_limit_bytes",
            "hugetlb_usage_bytes",
            "hugetlb_failcnt_total",
            "hugetlb_max_bytes",
            "blkio_io_merged_recursive_total",
            "blkio_io_queued_recursive_total",
            "blkio_io_service_bytes_recursive_bytes",
            "blkio_io_service_time_recursive_total",
            "blkio_io_serviced_recursive_total",
            "blkio_io_time_recursive_total",
            "blkio_sectors_recursive_total",
            "memory_oom_total",
        ]
        .map(str::to_owned)
        .into();
        for stat in MEMORY {
            names.extend([format!("memory_{stat}_bytes"), format!("memory_total_{stat}_bytes")]);
        }
        for of in ["usage", "swap", "kernel", "kerneltcp"] {
            names.extend(
                ["failcnt_total", "limit_bytes", "max_bytes", "usage_bytes"]
                    .map(|what| format!("memory_{of}_{what}")),
            );
        }
        names.into_iter().map(|name| format!("container_{name}")).collect()
    }

    #[test]
    fn version_1_has_all_68_families() {
        let stat: String = MEMORY
            .iter()
            .zip(1..)
            .map(|(name, value)| format!("{name} {value}\ntotal_{name} {}\n", value * 10))
            .collect();
        let stat =
            stat + "hierarchical_memory_limit 1000\nhierarchical_memsw_limit 2000\nother 5\n";
        let per_device = "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3";
        let counters: Vec<(String, String)> = ["", ".memsw", ".kmem", ".kmem.tcp"]
            .iter()
            .flat_map(|of| {
                ["usage_in_bytes", "max_usage_in_bytes", "failcnt", "limit_in_bytes"]
                    .map(|end| (format!("memory{of}.{end}"), "77".to_owned()))
            })
            .collect();
        let mut memory: Vec<(&str, &str)> =
            counters.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        memory.push(("memory.stat", &stat));
        memory.push(("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3"));
        let samples = measured(&[
            &[("pids.current", "4"), ("pids.max", "max")],
            &[
                ("cpu.shares", "1024"),
                ("cpu.stat", "nr_periods 7\nnr_throttled 3\nthrottled_time 500\n"),
            ],
            &[
                ("cpuacct.usage", "900"),
                ("cpuacct.usage_percpu", "400 500 "),
                ("cpuacct.stat", "user 5\nsystem 6"),
            ],
            &memory,
            &[
                ("hugetlb.2MB.usage_in_bytes", "5"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "6"),
                ("hugetlb.2MB.failcnt", "1"),
                ("hugetlb.2MB.max_usage_in_bytes", "9"),
            ],
            &[
                ("blkio.io_merged_recursive", per_device),
                ("blkio.io_queued_recursive", per_device),
                ("blkio.io_service_time_recursive", per_device),
                ("blkio.time_recursive", "8:0 5"),
                ("blkio.sectors_recursive", "8:0 6"),
                // A scheduler that has counted nothing: what is below it counts.
                ("blkio.io_service_bytes_recursive", "Total 0"),
                ("blkio.bfq.io_serviced_recursive", "8:0 Read 11\n8:0 Total 11"),
                ("blkio.throttle.io_service_bytes", "8:0 Read 4096\n8:0 Total 4096\nTotal 4096"),
                ("blkio.throttle.io_serviced", "8:0 Read 99"),
            ],
        ]);
        let got: BTreeSet<String> = names(&samples).into_iter().map(str::to_owned).collect();
        assert_eq!(got, families());
        assert_eq!(got.len(), 68);

        let check = |name: &str, label: Option<&str>, want: f64| {
            assert_eq!(value(&samples, name, label), want, "{name} {label:?}");
        };
        check("pids_limit", None, 0.0);
        check("pids_current", None, 4.0);
        check("cpu_total_nanoseconds", None, 900.0);
        check("per_cpu_nanoseconds", Some("1"), 500.0);
        let tick = 1e9 / float(rustix::param::clock_ticks_per_second());
        check("cpu_user_nanoseconds", None, 5.0 * tick);
        check("cpu_kernel_nanoseconds", None, 6.0 * tick);
        check("cpu_throttled_time_nanoseconds", None, 500.0);
        check("memory_cache_bytes", None, 1.0);
        check("memory_total_unevictable_bytes", None, 150.0);
        check("memory_hierarchical_memsw_limit_bytes", None, 2000.0);
        check("memory_kerneltcp_usage_bytes", None, 77.0);
        check("memory_oom_total", None, 3.0);
        check("hugetlb_usage_bytes", Some("2MB"), 5.0);
        check("blkio_io_service_bytes_recursive_bytes", Some("Read"), 4096.0);
        check("blkio_io_serviced_recursive_total", Some("Read"), 11.0);
        check("blkio_io_time_recursive_total", Some(""), 5.0);
        let io = samples.iter().find(|one| one.name.contains("service_bytes")).unwrap();
        let labels: Vec<&str> = io.labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(labels, ["id", "namespace", "op", "device", "major", "minor"]);
    }

    #[test]
    fn version_2_has_the_same_names_where_it_has_a_source() {
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=500000";
        let samples = measured(&[&[
            ("cgroup.controllers", "cpu memory io pids hugetlb"),
            ("pids.current", "4"),
            ("pids.max", "50"),
            ("cpu.weight", "100"),
            (
                "cpu.stat",
                "usage_usec 900\nuser_usec 500\nsystem_usec 400\nnr_periods 7\nnr_throttled 3\n\
                 throttled_usec 5",
            ),
            ("memory.current", "1000"),
            ("memory.max", "5000"),
            ("memory.peak", "3000"),
            ("memory.swap.current", "10"),
            ("memory.swap.max", "20"),
            ("memory.swap.events", "max 6\nfail 0"),
            ("memory.events", "low 0\nhigh 0\nmax 8\noom 2\noom_kill 1\noom_group_kill 0"),
            (
                "memory.stat",
                "anon 1\nfile 2\nkernel 30\nsock 40\nfile_mapped 3\nfile_dirty 4\nfile_writeback 5\n\
                 anon_thp 6\ninactive_anon 7\nactive_anon 8\ninactive_file 9\nactive_file 10\n\
                 unevictable 11\npgfault 12\npgmajfault 13",
            ),
            ("hugetlb.2MB.current", "5"),
            ("hugetlb.2MB.events", "max 1"),
            ("hugetlb.2MB.rsvd.current", "6"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n259:0 \n"),
            ("cpu.pressure", pressure),
            ("memory.pressure", pressure),
            ("io.pressure", pressure),
        ]]);
        let check = |name: &str, label: Option<&str>, want: f64| {
            assert_eq!(value(&samples, name, label), want, "{name} {label:?}");
        };
        check("pids_limit", None, 50.0);
        check("cpu_total_nanoseconds", None, 900_000.0);
        check("cpu_kernel_nanoseconds", None, 400_000.0);
        check("cpu_throttled_periods_total", None, 3.0);
        check("cpu_throttled_time_nanoseconds", None, 5000.0);
        check("memory_rss_bytes", None, 1.0);
        check("memory_total_cache_bytes", None, 2.0);
        check("memory_pgmajfault_bytes", None, 13.0);
        check("memory_usage_usage_bytes", None, 1000.0);
        check("memory_usage_limit_bytes", None, 5000.0);
        check("memory_usage_max_bytes", None, 3000.0);
        check("memory_usage_failcnt_total", None, 8.0);
        check("memory_swap_usage_bytes", None, 1010.0);
        check("memory_swap_limit_bytes", None, 5020.0);
        check("memory_swap_failcnt_total", None, 6.0);
        check("memory_hierarchical_memory_limit_bytes", None, 5000.0);
        check("memory_hierarchical_memsw_limit_bytes", None, 5020.0);
        check("memory_kernel_usage_bytes", None, 30.0);
        check("memory_kerneltcp_usage_bytes", None, 40.0);
        check("memory_oom_total", None, 1.0);
        check("hugetlb_usage_bytes", Some("2MB"), 5.0);
        check("blkio_io_service_bytes_recursive_bytes", Some("Write"), 2.0);
        check("blkio_io_serviced_recursive_total", Some("Discard"), 6.0);
        check("pressure_cpu_some_seconds_total", None, 1.5);
        check("pressure_io_full_seconds_total", None, 0.5);
        let known = families();
        let others: Vec<&str> = names(&samples)
            .into_iter()
            .filter(|name| !known.contains(*name) && !name.starts_with("container_pressure_"))
            .collect();
        assert!(others.is_empty(), "names of their own: {others:?}");
    }

    #[test]
    fn what_is_not_there_is_absent() {
        assert!(measured(&[]).is_empty());
        assert!(measured(&[&[], &[("cgroup.procs", "1")]]).is_empty());
        // The unified hierarchy beside those of version 1: it counts processor time and has no controller.
        let mixed = measured(&[
            &[("cgroup.controllers", ""), ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4")],
            &[("cpu.shares", "2"), ("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0")],
            &[("cpuacct.usage", "7000")],
        ]);
        assert_eq!(value(&mixed, "cpu_total_nanoseconds", None), 7000.0);
        assert_eq!(mixed.len(), 4, "{mixed:?}");
        let broken = measured(&[&[
            ("pids.current", "many"),
            ("memory.limit_in_bytes", ""),
            ("memory.stat", "cache\nrss x\n"),
            ("cpu.pressure", "some nothing\n"),
        ]]);
        assert!(broken.is_empty(), "{broken:?}");
    }
}
