//! `Retry-After` as servers say it (RFC 9110 §10.2.3): so many seconds, or a date.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::time::Duration;

/// The three forms of a date in HTTP (RFC 9110 §5.6.7): the one that is written today, and two that are still read.
const DATES: [&str; 3] =
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// How long to wait, from now; none where the value is neither. A date that is over says not to wait, and more seconds
/// than anybody can count say to wait for ever.
pub fn parse(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = DATES.iter().find_map(|form| DateTime::strptime(form, value).ok())?;
    let until = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_nothing_else() {
        let now = "1994-11-06T08:49:30.5Z".parse().unwrap();
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        for (value, wait) in [
            ("0", seconds(0.0)),
            ("120", seconds(120.0)),
            (" 7\t", seconds(7.0)),
            ("99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(6.5)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", seconds(6.5)),
            ("Sun Nov  6 08:49:37 1994", seconds(6.5)),
            ("Wed, 16 Nov 1994 08:49:30 GMT", seconds(863_999.5)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", seconds(0.0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", seconds(0.0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1s", None),
            ("1, 2", None),
            ("soon", None),
            ("Mon, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 31 Feb 1994 08:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
        ] {
            assert_eq!(parse(value, now), wait, "{value:?}");
        }
    }
}
