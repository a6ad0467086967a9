//! How much: rates and quotas as people write them (`50/s`, `100000/day`).
//!
//! Invariant: an amount is at least 1 and small enough for every field that shows it (RFC 9651 §3.3.1: 15 digits).

use crate::units::as_text;
use std::fmt;
use std::str::FromStr;

/// So many units per second, minute or hour: `50/s`, `100/min`, `10/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    units: u32,
    per: Unit,
}

/// The time that a rate counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// The largest number of units.
    pub const MAX: u32 = 1_000_000_000;

    /// How many units pass in [`micros`](Self::micros); 1 to [`Self::MAX`].
    pub const fn units(self) -> u32 {
        self.units
    }

    /// The time in which [`units`](Self::units) pass, in microseconds.
    pub const fn micros(self) -> i64 {
        match self.per {
            Unit::Second => 1_000_000,
            Unit::Minute => 60_000_000,
            Unit::Hour => 3_600_000_000,
        }
    }

    /// What one of so many nodes may admit alone: an equal part, at least 1 unit.
    #[must_use]
    pub fn share(self, nodes: u32) -> Self {
        Self { units: (self.units / nodes.max(1)).max(1), ..self }
    }
}

/// A rate that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a rate; a rate is written like `50/s`: 1 to 1000000000 per `s`, `min` or `h`"
)]
pub struct InvalidRate(String);

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let parse = || {
            let (units, per) = text.split_once('/')?;
            let per = match per {
                "s" => Unit::Second,
                "min" => Unit::Minute,
                "h" => Unit::Hour,
                _ => return None,
            };
            let units = u32::try_from(number(units, Self::MAX.into())?).ok()?;
            Some(Self { units, per })
        };
        parse().ok_or_else(|| InvalidRate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Unit::Second => "s",
            Unit::Minute => "min",
            Unit::Hour => "h",
        };
        write!(f, "{}/{per}", self.units)
    }
}

/// So many units in each period of the tenant's calendar: `100000/day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    amount: u64,
    period: Period,
}

impl Quota {
    /// The largest amount: what a structured field can show (RFC 9651 §3.3.1).
    pub const MAX: u64 = 999_999_999_999_999;

    /// How many units a period has; 1 to [`Self::MAX`].
    pub const fn amount(self) -> u64 {
        self.amount
    }

    /// The period after which counting starts anew.
    pub const fn period(self) -> Period {
        self.period
    }

    /// What one of so many nodes may admit alone: an equal part, at least 1 unit.
    #[must_use]
    pub fn share(self, nodes: u32) -> Self {
        Self { amount: (self.amount / u64::from(nodes.max(1))).max(1), ..self }
    }
}

/// A calendar period. Weeks start on Monday (ISO 8601).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// From :00 to :59 seconds.
    Minute,
    /// From :00 to :59 minutes.
    Hour,
    /// From the first instant of a civil day to that of the next: 23 to 25 hours where clocks change.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From the first to the last day.
    Month,
    /// From the tenant's billing day to the day before the next one.
    BillingMonth,
}

impl Period {
    /// Every period, shortest first.
    pub const ALL: [Self; 6] =
        [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::BillingMonth];

    /// The name used in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::BillingMonth => "billing_month",
        }
    }

    /// The length that is shown to clients, in seconds: the same all year, a month being 31 days. A real window may be
    /// an hour shorter or longer, a month some days shorter.
    pub const fn nominal_seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month | Self::BillingMonth => 31 * 86_400,
        }
    }
}

/// A quota that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a quota; a quota is written like `100000/day`: 1 to 999999999999999 per `minute`, `hour`, `day`, `week`, `month` or `billing_month`"
)]
pub struct InvalidQuota(String);

impl FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, InvalidQuota> {
        let parse = || {
            let (amount, name) = text.split_once('/')?;
            let period = Period::ALL.into_iter().find(|period| period.as_str() == name)?;
            Some(Self { amount: number(amount, Self::MAX)?, period })
        };
        parse().ok_or_else(|| InvalidQuota(text.to_owned()))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.amount, self.period.as_str())
    }
}

/// Digits only (no sign, no spaces), from 1 to `max`.
fn number(text: &str, max: u64) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| (1..=max).contains(number))
}

as_text!(Rate, "rate");
as_text!(Quota, "quota");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_people_write_reads_back() {
        for (text, units, micros) in [
            ("50/s", 50, 1_000_000),
            ("100/min", 100, 60_000_000),
            ("10/h", 10, 3_600_000_000),
            ("1000000000/s", 1_000_000_000, 1_000_000),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.units(), rate.micros()), (units, micros), "{text}");
            assert_eq!(rate.to_string(), text);
            assert_eq!(serde_json::from_value::<Rate>(json!(text)).unwrap(), rate);
            assert_eq!(serde_json::to_value(rate).unwrap(), json!(text));
        }
        for text in ["7/minute", "7/hour", "100000/day", "1/week", "999999999999999/month"] {
            let quota: Quota = text.parse().unwrap();
            assert_eq!(quota.to_string(), text);
            assert_eq!(serde_json::from_value::<Quota>(json!(text)).unwrap(), quota);
            assert_eq!(serde_json::to_value(quota).unwrap(), json!(text));
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for text in [
            "",
            "50",
            "/s",
            "50/",
            "0/s",
            "-1/s",
            "+1/s",
            " 1/s",
            "1 /s",
            "1/d",
            "1/S",
            "1.5/s",
            "1000000001/s",
            "1/s/s",
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("a rate is written like `50/s`"), "{text}: {error}");
        }
        for text in [
            "",
            "0/day",
            "1/s",
            "1/days",
            "1/year",
            "1000000000000000/day",
            "99999999999999999999/day",
            "+1/day",
        ] {
            let error = text.parse::<Quota>().unwrap_err().to_string();
            assert!(error.contains("a quota is written like `100000/day`"), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_is_an_equal_part_and_at_least_one_unit() {
        use super::super::Kind;
        let rate = |text: &str, burst| Kind::Rate { rate: text.parse().unwrap(), burst };
        let quota = |text: &str| Kind::Quota(text.parse().unwrap());
        for (whole, nodes, share) in [
            (rate("100/s", 50), 4, rate("25/s", 12)),
            (rate("3/h", 1), 4, rate("1/h", 1)),
            (quota("10/day"), 4, quota("2/day")),
            (quota("1/day"), 4, quota("1/day")),
            (Kind::Concurrency(9), 4, Kind::Concurrency(2)),
            (Kind::Concurrency(9), 1, Kind::Concurrency(9)),
            (Kind::Concurrency(9), 0, Kind::Concurrency(9)),
        ] {
            assert_eq!(whole.share(nodes), share, "{whole:?} {nodes}");
        }
    }

    #[test]
    fn schemas_name_the_format() {
        let rate = schemars::schema_for!(Rate);
        assert_eq!(rate.get("format"), Some(&json!("rate")));
        let quota = schemars::schema_for!(Quota);
        assert_eq!(quota.get("format"), Some(&json!("quota")));
    }
}
