//! What the kernel says of a process.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Memory that is its own alone and no file's (`RssAnon` of `status`), in KiB: unlike its share it does
/// not change with what others do.
pub fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let line = line.expect("it has an RssAnon");
    line.trim().trim_end_matches("kB").trim().parse().expect("it is a number")
}

/// How many descriptors it has open.
pub fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("list the descriptors").count()
}

/// Whether it is there, and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit_once(") ").is_some_and(|(_, behind)| !behind.starts_with(['Z', 'X']))
    })
}

/// Sends a signal to a process that the caller knows to be one of its own making.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("it is a pid")).expect("it is a pid");
    kill_process(pid, signal).expect("send a signal");
}
