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

/// Nanoseconds since 1970 of a time by RFC 3339, such as `2026-11-24T02:18:00Z` or `2026-11-24T04:18:00.5+02:00`; `None` for what is
/// none.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<i64>().ok(),
        false => None,
    };
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let time = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = (time.get(..8)?, time.get(8..)?);
    let [year, month, day] = split(date, '-')?.map(number);
    let [hour, minute, second] = split(clock, ':')?.map(number);
    let days = days(year?, month?, day?)?;
    let of_day = hour.filter(|h| *h < 24)? * 3600
        + minute.filter(|m| *m < 60)? * 60
        + second.filter(|s| *s <= 60)?;
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let digits = rest.get(..end.min(9)).filter(|digits| !digits.is_empty())?;
            (number(digits)? * 10_i64.pow(9 - u32::try_from(digits.len()).ok()?), &rest[end..])
        }
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] = split(zone.get(1..)?, ':')?.map(number);
            let seconds = hours.filter(|h| *h < 24)? * 3600 + minutes.filter(|m| *m < 60)? * 60;
            match zone.get(..1)? {
                "+" => seconds,
                "-" => -seconds,
                _ => return None,
            }
        }
    };
    (days.checked_mul(86_400)? + of_day - offset).checked_mul(1_000_000_000)?.checked_add(nanos)
}

fn split<const PARTS: usize>(text: &str, at: char) -> Option<[&str; PARTS]> {
    text.split(at).collect::<Vec<_>>().try_into().ok()
}

/// The day since 1970 of a date; `None` if there is no such date.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
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
    fn a_time_is_read_as_it_is_written() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:01.5Z", Some(1_500_000_000)),
            ("1970-01-01T02:00:00+02:00", Some(0)),
            ("1969-12-31T23:00:00-01:00", Some(0)),
            ("2000-02-29T00:00:00.123456789Z", Some(951_782_400_123_456_789)),
            ("2001-02-29T00:00:00Z", None),
            ("2001-13-01T00:00:00Z", None),
            ("2001-01-01T24:00:00Z", None),
            ("2001-01-01T00:00:00", None),
            ("2001-01-01", None),
            ("2001-01-01T00:00:00.Z", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), want, "{text}");
        }
        for time in [0, 1, 1_764_115_200_000_000_001] {
            assert_eq!(parse_rfc3339(&rfc3339(time, 9)), Some(time));
        }
    }

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
