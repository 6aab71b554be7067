//! Wall-clock time, for show and for records; and a time that never steps, to tell what came first. Durations are
//! measured with `Instant`.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, as all records have them. Before 1970 and after 2262 it is clamped.
pub fn now_unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What the wall clock showed when this process first asked, and how long ago that was.
///
/// It never goes back or jumps, whatever is done to the clock, so two of these say which came first. One that
/// another process or an earlier start gave may be off by what the clock was set by.
pub fn steady_unix_ns() -> i64 {
    static START: LazyLock<(Instant, i64)> = LazyLock::new(|| (Instant::now(), now_unix_ns()));
    let (begun, shown) = *START;
    shown.saturating_add(i64::try_from(begun.elapsed().as_nanos()).unwrap_or(i64::MAX))
}
