//! Wall-clock time, for show and for records. Durations are measured with `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, as all records have them. Before 1970 and after 2262 it is clamped.
pub fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
