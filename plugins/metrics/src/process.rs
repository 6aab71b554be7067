//! What the kernel tells of this process (proc(5)).

use std::fs;

use capstan_sdk::contract::metrics::Sample;
use capstan_sdk::{Error, Result};

/// Measures this process, now.
pub(crate) fn measure() -> Result<Vec<Sample>> {
    let stat = Stat::parse(&read("/proc/self/stat")?)?;
    let memory = read("/proc/self/smaps_rollup")?;
    let boot = number("/proc/stat", &read("/proc/stat")?, "btime")?;
    let descriptors = fs::read_dir("/proc/self/fd")
        .map_err(|error| Error::io("list /proc/self/fd", error))?
        .count()
        // The one by which they are listed.
        .saturating_sub(1);
    let kib = |key| number("/proc/self/smaps_rollup", &memory, key).map(|kib| kib * 1024.0);
    let seconds = |ticks: f64| ticks / ticks_per_second();
    Ok(vec![
        Sample::gauge(
            "capstan_process_resident_bytes",
            "Memory of the process, pages that it shares with others included.",
            kib("Rss:")?,
        ),
        Sample::gauge(
            "capstan_process_pss_bytes",
            "Memory of the process, of shared pages its share (PSS).",
            kib("Pss:")?,
        ),
        Sample::gauge(
            "capstan_process_open_descriptors",
            "File descriptors that the process has open.",
            count(descriptors),
        ),
        Sample::gauge("capstan_process_threads", "Threads of the process.", stat.threads),
        Sample::counter(
            "capstan_process_cpu_seconds_total",
            "Processor time of the process, in user and kernel mode.",
            seconds(stat.cpu_ticks),
        ),
        Sample::gauge(
            "capstan_process_start_time_seconds",
            "When the process started, in seconds since 1970.",
            boot + seconds(stat.start_ticks),
        ),
    ])
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))
}

/// Descriptors are far fewer than what a float counts exactly.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "it is 100, or 1000 at most")]
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// The number behind `key` at the start of a line.
fn number(path: &str, text: &str, key: &str) -> Result<f64> {
    let words = text.lines().map(str::split_whitespace);
    let value = words.into_iter().find_map(|mut words| match words.next() {
        Some(word) if word == key => words.next()?.parse().ok(),
        _ => None,
    });
    value.ok_or_else(|| Error::internal(format!("{path} has no number {key:?}")))
}

/// What is of use in /proc/self/stat.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    /// Since boot.
    start_ticks: f64,
}

impl Stat {
    fn parse(text: &str) -> Result<Self> {
        // The second field is the program's name in parentheses, and may hold any text.
        let fields: Vec<&str> = match text.rsplit_once(')') {
            Some((_, rest)) => rest.split_whitespace().collect(),
            None => Vec::new(),
        };
        // Numbered as in the manual, where the first behind the name is 3.
        let field = |number: usize| {
            let value = fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
            value.ok_or_else(|| {
                Error::internal(format!("/proc/self/stat has no number in field {number}"))
            })
        };
        Ok(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_hides_nothing() {
        let stat = |name: &str| {
            Stat::parse(&format!(
                "1 ({name}) S 0 1 1 0 -1 4194560 9 0 0 0 150 50 7 8 20 0 12 0 4711 99 77\n"
            ))
        };
        let want = Stat { cpu_ticks: 200.0, threads: 12.0, start_ticks: 4711.0 };
        for name in ["capstand", "a b", ") S 1 (", ""] {
            assert_eq!(stat(name).unwrap(), want, "{name:?}");
        }
        assert!(Stat::parse("").is_err());
        assert!(Stat::parse("1 (a) S 0 1").is_err());
    }

    #[test]
    fn numbers_are_found_by_their_key() {
        let check = |text: &str, key: &str, want: Option<f64>| {
            assert_eq!(number("it", text, key).ok(), want, "{text:?} {key}");
        };
        check("Rss:  12 kB\nPss: 3 kB\nPss_Anon: 4 kB\n", "Pss:", Some(3.0));
        check("cpu 1 2\nbtime 1700000000\n", "btime", Some(1_700_000_000.0));
        check("Rss: x\n", "Rss:", None);
        check("", "Rss:", None);
    }
}
