//! Sizes, counts and times as a person reads them. Pure; the wording is part of the contract with scripts.

use std::time::Duration;

/// Decimal units: `293 KB`, `2.0 MB`, `4.7 GB`, `19 GB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB")];
    let Some((size, unit)) = UNITS.into_iter().find(|(size, _)| count >= *size) else {
        return format!("{count} B");
    };
    if count / size >= 10 || count.is_multiple_of(size) {
        format!("{} {unit}", count / size)
    } else {
        format!("{:.1} {unit}", count as f64 / size as f64)
    }
}

/// `139584` → `140K`, `8030261248` → `8.0B`.
pub fn number(count: u64) -> String {
    let scaled = |size: u64, decimals: usize, unit: char| {
        let decimals = if count.is_multiple_of(size) { 0 } else { decimals };
        format!("{:.decimals$}{unit}", count as f64 / size as f64)
    };
    match count {
        1_000_000_000.. => scaled(1_000_000_000, 1, 'B'),
        1_000_000.. => scaled(1_000_000, 2, 'M'),
        1_000.. => scaled(1_000, 0, 'K'),
        _ => count.to_string(),
    }
}

/// How far a time is from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    Ago(Duration),
    Ahead(Duration),
}

/// `4 minutes from now`, `2 weeks ago`; what lies more than 20 years ahead is `Forever`.
pub fn relative(distance: Distance) -> String {
    const YEARS_20_HOURS: u64 = 21 * 365 * 24;
    match distance {
        Distance::Ago(by) => format!("{} ago", about(by)),
        Distance::Ahead(by) if by.as_secs() / 3600 >= YEARS_20_HOURS => "Forever".to_owned(),
        Distance::Ahead(by) => format!("{} from now", about(by)),
    }
}

/// The distance of an RFC 3339 time from `now`; `None` for Go's zero time (or nonsense).
pub fn distance(time: &str, now: jiff::Timestamp) -> Option<Distance> {
    let time: jiff::Timestamp = time.parse().ok()?;
    if time.as_second() <= GO_ZERO_SECONDS {
        return None;
    }
    let between = time.duration_since(now);
    let by = between.unsigned_abs();
    Some(if between.is_negative() || between.is_zero() {
        Distance::Ago(by)
    } else {
        Distance::Ahead(by)
    })
}

/// 0001-01-01T00:00:00Z
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

fn about(by: Duration) -> String {
    let seconds = by.as_secs();
    let minutes = seconds / 60;
    let hours = (by.as_secs_f64() / 3600.0).round() as u64;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (count, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 KB"),
            (1500, "1.5 KB"),
            (293_456, "293 KB"),
            (2_000_000, "2 MB"),
            (2_010_000, "2.0 MB"),
            (4_661_224_676, "4.7 GB"),
            (9_999_999, "10.0 MB"),
            (19_999_999_999, "19 GB"),
            (1_500_000_000_000, "1.5 TB"),
        ] {
            assert_eq!(bytes(count), expected, "{count}");
        }
    }

    #[test]
    fn counts() {
        for (count, expected) in [
            (999, "999"),
            (139_584, "140K"),
            (1_000_000, "1M"),
            (137_000_000, "137M"),
            (22_713_216, "22.71M"),
            (7_000_000_000, "7B"),
            (8_030_261_248, "8.0B"),
        ] {
            assert_eq!(number(count), expected, "{count}");
        }
    }

    #[test]
    fn times() {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * 60 + 59, "59 minutes"),
            (HOUR, "About an hour"),
            (HOUR + 29 * 60, "About an hour"),
            (HOUR + 31 * 60, "2 hours"),
            (47 * HOUR, "47 hours"),
            (2 * DAY, "2 days"),
            (14 * DAY, "2 weeks"),
            (60 * DAY, "2 months"),
            (730 * DAY, "2 years"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), expected, "{seconds}");
        }
        let years = |years: u64| Duration::from_secs(years * 365 * DAY);
        assert_eq!(relative(Distance::Ahead(years(292))), "Forever");
        assert_eq!(relative(Distance::Ahead(years(3))), "3 years from now");
        assert_eq!(relative(Distance::Ago(years(30))), "30 years ago");
    }

    #[test]
    fn distances() {
        let now: jiff::Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        for (time, expected) in [
            ("2026-11-21T09:00:00Z", Some(Distance::Ago(Duration::from_secs(3600)))),
            ("2026-11-21T11:00:30.5+01:00", Some(Distance::Ahead(Duration::from_millis(30500)))),
            ("0001-01-01T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(distance(time, now), expected, "{time}");
        }
    }
}
