//! Block devices: what was read and written, and how long that took.

use std::fs;

use capstan_sdk::Result;

use super::super::{Group, file};
use super::{Samples, float};

/// Name, file of version 1 without what is before and behind it, and what it is.
const FAMILIES: [(&str, &str, &str); 7] = [
    ("blkio_io_merged_recursive_total", "io_merged", "Operations that became part of others."),
    ("blkio_io_queued_recursive_total", "io_queued", "Operations that wait."),
    (BYTES, "io_service_bytes", BYTES_HELP),
    (
        "blkio_io_service_time_recursive_total",
        "io_service_time",
        "Time from start to end of operations, in nanoseconds.",
    ),
    (SERVICED, "io_serviced", SERVICED_HELP),
    ("blkio_io_time_recursive_total", "time", "Time that devices worked for it, in milliseconds."),
    ("blkio_sectors_recursive_total", "sectors", "Sectors that were read and written."),
];

const BYTES: &str = "blkio_io_service_bytes_recursive_bytes";
const BYTES_HELP: &str = "Bytes that were read and written.";
const SERVICED: &str = "blkio_io_serviced_recursive_total";
const SERVICED_HELP: &str = "Operations that were carried out.";

pub(super) fn measure(group: &Group, out: &mut Samples<'_>) -> Result<()> {
    for (name, file, help) in FAMILIES {
        // Who counts depends on the kernel and on the devices' scheduler: the first that has counted.
        let files = [
            format!("blkio.{file}_recursive"),
            format!("blkio.bfq.{file}_recursive"),
            format!("blkio.throttle.{file}_recursive"),
            format!("blkio.throttle.{file}"),
        ];
        for file in &files {
            let Some(dir) = group.with(file) else { continue };
            let text = file::read(dir, file)?.unwrap_or_default();
            let entries: Vec<_> = text.lines().filter_map(entry_1).collect();
            if !entries.is_empty() {
                entries.iter().for_each(|(number, op, value)| {
                    add(out, name, help, number, op, *value);
                });
                break;
            }
        }
    }
    if let Some(dir) = group.with("io.stat") {
        let text = file::read(dir, "io.stat")?.unwrap_or_default();
        for line in text.lines() {
            version_2(line, out);
        }
    }
    Ok(())
}

/// `8:0 Read 5` or `8:0 5`, as device, operation and value. Sums over all devices are no entries.
fn entry_1(line: &str) -> Option<(&str, &str, u64)> {
    let mut words = line.split_whitespace();
    let (number, second) = (words.next()?, words.next()?);
    number.split_once(':')?;
    match words.next() {
        Some(value) => Some((number, second, value.parse().ok()?)),
        None => Some((number, "", second.parse().ok()?)),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn version_2(line: &str, out: &mut Samples<'_>) {
    let Some((number, counters)) = line.split_once(' ') else { return };
    for counter in counters.split_whitespace() {
        let Some((key, value)) = counter.split_once('=') else { continue };
        let op = match key.as_bytes().first() {
            Some(b'r') => "Read",
            Some(b'w') => "Write",
            Some(b'd') => "Discard",
            _ => continue,
        };
        let (name, help) = match &key[1..] {
            "bytes" => (BYTES, BYTES_HELP),
            "ios" => (SERVICED, SERVICED_HELP),
            _ => continue,
        };
        if let Ok(value) = value.parse() {
            add(out, name, help, number, op, value);
        }
    }
}

fn add(out: &mut Samples<'_>, name: &str, help: &str, number: &str, op: &str, value: u64) {
    let Some((major, minor)) = number.split_once(':') else { return };
    let device = device(number);
    let labels = [("op", op), ("device", &device), ("major", major), ("minor", minor)];
    out.add(name, help, &labels, float(value));
}

/// The path of a device by its number; empty if it is gone.
fn device(number: &str) -> String {
    let about = fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).unwrap_or_default();
    let name = about.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}
