//! Times as text.

/// UTC by RFC 3339, of a time in nanoseconds since 1970, with so many digits (at most 9) of the second:
/// `2026-11-24T02:18:00.123Z` with three.
pub fn rfc3339(unix_ns: i64, digits: u32) -> String {
    let (seconds, nanos) = (unix_ns.div_euclid(1_000_000_000), unix_ns.rem_euclid(1_000_000_000));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (part, width) = (nanos / 10_i64.pow(9 - digits), digits as usize);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{part:0width$}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (day, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_723, (2024, 1, 1)),
            (20_782, (2026, 11, 25)),
            (-1, (1969, 12, 31)),
        ] {
            assert_eq!(civil(day), date, "{day}");
        }
    }

    #[test]
    fn a_time_has_as_many_digits_as_one_likes() {
        assert_eq!(rfc3339(1_123_456_789, 9), "1970-01-01T00:00:01.123456789Z");
        assert_eq!(rfc3339(1_003_456_789, 3), "1970-01-01T00:00:01.003Z");
        assert_eq!(rfc3339(-1, 9), "1969-12-31T23:59:59.999999999Z");
    }
}
