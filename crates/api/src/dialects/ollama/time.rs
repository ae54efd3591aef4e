//! Times as Go prints them: RFC 3339 with as many digits as needed, `Z` for UTC.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

pub(crate) fn utc(time: Timestamp) -> String {
    time.to_string()
}

/// In the zone of this machine.
pub(crate) fn local(time: Timestamp) -> String {
    at(time, TimeZone::system().to_offset(time))
}

fn at(time: Timestamp, offset: Offset) -> String {
    match offset == Offset::UTC {
        true => utc(time),
        false => time.display_with_offset(offset).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(time: &str, offset_hours: i8, expected: &str) {
        let time: Timestamp = time.parse().unwrap();
        assert_eq!(at(time, Offset::from_hours(offset_hours).unwrap()), expected);
    }

    #[test]
    fn as_go_prints_them() {
        check("2026-11-21T09:23:16.907133400Z", 0, "2026-11-21T09:23:16.9071334Z");
        check("2026-11-21T09:23:16Z", 0, "2026-11-21T09:23:16Z");
        check("2026-11-21T09:23:16.5Z", 2, "2026-11-21T11:23:16.5+02:00");
        check("2026-11-21T09:23:16.5Z", -5, "2026-11-21T04:23:16.5-05:00");
    }
}
