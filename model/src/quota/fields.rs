//! What responses say about limits: `RateLimit-Policy`, `RateLimit` and the older `X-RateLimit-*`.
//!
//! Syntax of draft-ietf-httpapi-ratelimit-headers-11 §3 and §4: lists of strings with parameters (RFC 9651 §3.1). Limits
//! are named by id, and ids need no escaping ([`is_id`](crate::id::is_id)), so that a format string serialises them.

use super::{Kind, Limit, Quota, Reading};
use http::HeaderValue;
use std::fmt::Write as _;

/// `RateLimit-Policy: "burst";q=100;w=2`: what the limits are. The same for every request under a plan, so it can be made
/// when a snapshot is compiled. `None` when there is no limit.
pub fn policy<'a>(limits: impl IntoIterator<Item = &'a Limit>) -> Option<HeaderValue> {
    list(limits, |line, limit| match limit.kind {
        Kind::Rate { rate, burst } => {
            let micros = u128::from(burst) * u128::from(rate.micros().unsigned_abs());
            let window = micros.div_ceil(u128::from(rate.units()) * 1_000_000);
            write!(line, "\"{}\";q={burst};w={window}", limit.id)
        }
        Kind::Quota(quota) => {
            let (amount, window) = (quota.amount(), quota.period().nominal_seconds());
            write!(line, "\"{}\";q={amount};w={window}", limit.id)
        }
        Kind::Concurrency(slots) => {
            write!(line, "\"{}\";q={slots};qu=\"concurrent-requests\"", limit.id)
        }
    })
}

/// `RateLimit: "burst";r=99;t=1`: what is left, and in how many seconds all of it is back. `None` when there is no limit.
pub fn current(readings: &[Reading]) -> Option<HeaderValue> {
    list(readings, |line, reading| {
        let remaining = reading.remaining.min(Quota::MAX);
        write!(line, "\"{}\";r={remaining}", reading.id)?;
        match reading.reset_after {
            Some(micros) => write!(line, ";t={}", whole_seconds(micros)),
            None => Ok(()),
        }
    })
}

/// The limit that `X-RateLimit-*` shows: the one that refused, else the rate or quota of which the smallest share
/// remains. Slots only when there is nothing else: every request holds one, so they would hide the rest.
pub fn tightest(readings: &[Reading]) -> Option<&Reading> {
    let refused = readings.iter().rev().filter(|reading| reading.refusal.is_some());
    let slots = |reading: &&Reading| matches!(reading.kind, Kind::Concurrency(_));
    let share = |a: &&Reading, b: &&Reading| {
        let (left, right) = (u128::from(a.remaining), u128::from(b.remaining));
        (left * u128::from(b.limit)).cmp(&(right * u128::from(a.limit)))
    };
    refused
        .max_by_key(|reading| reading.refusal)
        .or_else(|| readings.iter().filter(|reading| !slots(reading)).min_by(share))
        .or_else(|| readings.iter().min_by(share))
}

/// Whole seconds, rounded up: a client that waits so long has waited long enough.
pub const fn whole_seconds(micros: i64) -> u64 {
    if micros <= 0 { 0 } else { micros.unsigned_abs().div_ceil(1_000_000) }
}

/// A structured field's list of members. `None` when it would be empty (RFC 9651 §3.1), or when an id was not one.
fn list<T>(
    items: impl IntoIterator<Item = T>,
    member: impl Fn(&mut String, T) -> std::fmt::Result,
) -> Option<HeaderValue> {
    let mut line = String::new();
    for item in items {
        if !line.is_empty() {
            line.push_str(", ");
        }
        member(&mut line, item).ok()?;
    }
    if line.is_empty() { None } else { HeaderValue::try_from(line).ok() }
}

#[cfg(test)]
mod tests {
    use super::super::{OnStoreError, Per, Wait};
    use super::*;

    fn limit(id: &str, kind: Kind) -> Limit {
        Limit { id: id.into(), kind, per: Per::Tenant, on_store_error: OnStoreError::Closed }
    }

    fn reading(id: &str, kind: Kind, used: u64, reset_after: Option<i64>) -> Reading {
        let limit = match kind {
            Kind::Rate { burst, .. } => burst.into(),
            Kind::Quota(quota) => quota.amount(),
            Kind::Concurrency(slots) => slots.into(),
        };
        let remaining = limit.saturating_sub(used);
        Reading { id: id.into(), kind, limit, used, remaining, reset_after, refusal: None }
    }

    fn rate(text: &str, burst: u32) -> Kind {
        Kind::Rate { rate: text.parse().unwrap(), burst }
    }

    fn quota(text: &str) -> Kind {
        Kind::Quota(text.parse().unwrap())
    }

    #[test]
    fn the_policy_names_each_limit_by_id() {
        for (kinds, line) in [
            (vec![("burst", rate("50/s", 100))], r#""burst";q=100;w=2"#),
            (vec![("burst", rate("50/s", 101))], r#""burst";q=101;w=3"#),
            (vec![("burst", rate("1000/s", 1))], r#""burst";q=1;w=1"#),
            (vec![("slow", rate("7/h", 7))], r#""slow";q=7;w=3600"#),
            (vec![("m", quota("5/month"))], r#""m";q=5;w=2678400"#),
            (vec![("open", Kind::Concurrency(64))], r#""open";q=64;qu="concurrent-requests""#),
            (
                vec![("burst", rate("50/s", 100)), ("daily", quota("100000/day"))],
                r#""burst";q=100;w=2, "daily";q=100000;w=86400"#,
            ),
        ] {
            let limits: Vec<_> = kinds.into_iter().map(|(id, kind)| limit(id, kind)).collect();
            assert_eq!(policy(&limits).unwrap(), line);
        }
        assert_eq!(policy(&[]), None);
        assert_eq!(policy(&[limit("line\nbreak", Kind::Concurrency(1))]), None);
    }

    #[test]
    fn what_is_left_and_when_all_of_it_is_back() {
        let readings = [
            reading("burst", rate("50/s", 100), 1, Some(20_000)),
            reading("daily", quota("100000/day"), 100_500, Some(3_600_000_001)),
            reading("open", Kind::Concurrency(64), 1, None),
            reading("idle", rate("1/s", 5), 0, Some(0)),
        ];
        let line = r#""burst";r=99;t=1, "daily";r=0;t=3601, "open";r=63, "idle";r=5;t=0"#;
        assert_eq!(current(&readings).unwrap(), line);
        assert_eq!(current(&[]), None);
    }

    #[test]
    fn the_tightest_limit_is_the_one_that_refused_or_has_the_smallest_share_left() {
        let mut readings = vec![
            reading("open", Kind::Concurrency(2), 1, None),
            reading("burst", rate("50/s", 100), 50, Some(1)),
            reading("daily", quota("100000/day"), 50_001, Some(1)),
            reading("monthly", quota("100000/month"), 50_001, Some(1)),
        ];
        assert_eq!(tightest(&readings[..1]).unwrap().id.as_str(), "open");
        assert_eq!(tightest(&readings).unwrap().id.as_str(), "daily");
        readings[1].refusal = Some(Wait::For(7));
        assert_eq!(tightest(&readings).unwrap().id.as_str(), "burst");
        readings[0].refusal = Some(Wait::For(8));
        assert_eq!(tightest(&readings).unwrap().id.as_str(), "open");
        assert_eq!(tightest(&[]), None);
    }

    #[test]
    fn seconds_are_never_earlier_than_true() {
        for (micros, seconds) in
            [(i64::MIN, 0), (-1, 0), (0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)]
        {
            assert_eq!(whole_seconds(micros), seconds, "{micros}");
        }
    }
}
