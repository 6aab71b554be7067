//! Sizes, times and ages as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use capstan_client::schema::time::rfc3339;

/// Bytes with a 1024 base and one decimal: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// How long ago, in the largest unit that fits: `5m`.
pub(crate) fn age(unix_ns: i64) -> String {
    let then = u64::try_from(unix_ns).unwrap_or(0) / 1_000_000_000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let seconds = now.saturating_sub(then);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// UTC by RFC 3339 with milliseconds: `2026-11-24T02:18:00.123Z`; `-` for never.
pub(crate) fn time(unix_ns: i64) -> String {
    if unix_ns <= 0 {
        return "-".into();
    }
    rfc3339(unix_ns, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |bytes: u64, want: &str| assert_eq!(size(bytes), want);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_572_864, "1.5 MiB");
        check(u64::MAX, "16.0 EiB");
    }

    #[test]
    fn times() {
        let check = |seconds: i64, want: &str| assert_eq!(time(seconds * 1_000_000_000), want);
        check(0, "-");
        check(1, "1970-01-01T00:00:01.000Z");
        check(951_782_400, "2000-02-29T00:00:00.000Z");
        check(1_795_486_680, "2026-11-24T02:18:00.000Z");
        assert_eq!(time(1_123_456_789), "1970-01-01T00:00:01.123Z");
    }
}
