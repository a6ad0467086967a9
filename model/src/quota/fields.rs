//! What responses say about limits: `RateLimit-Policy`, `RateLimit` and the older `X-RateLimit-*`.
//!
//! Syntax of draft-ietf-httpapi-ratelimit-headers-11 §3 and §4: lists of strings with parameters (RFC 9651 §3.1). Limits
//! are named by id, and ids need no escaping ([`is_id`](crate::id::is_id)), so that a format string serialises them.

use super::{Kind, Limit, LimitMode, Quota, Reading};
use http::HeaderValue;
use std::fmt::Write as _;

/// `RateLimit-Policy: "burst";q=100;w=2`: what the limits are. The same for every request under a plan, so it can be made
/// when a snapshot is compiled. `None` when there is no limit.
pub fn policy<'a>(limits: impl IntoIterator<Item = &'a Limit>) -> Option<HeaderValue> {
    let told = limits.into_iter().filter(|limit| limit.mode == LimitMode::Enforce);
    list(told, |line, limit| match limit.kind {
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
    let told = readings.iter().filter(|reading| reading.mode == LimitMode::Enforce);
    list(told, |line, reading| {
        let remaining = reading.remaining.min(Quota::MAX);
        write!(line, "\"{}\";r={remaining}", reading.id)?;
        if let Some(micros) = reading.reset_after {
            write!(line, ";t={}", whole_seconds(micros))?;
        }
        match reading.degraded {
            // A token (RFC 9651 §3.3.4); parameters of one's own have a prefix (draft -11 §3).
            Some(how) => write!(line, ";tollgate-degraded={}", how.as_str()),
            None => Ok(()),
        }
    })
}

/// The limit that `X-RateLimit-*` shows: the one that refused, else the rate or quota of which the smallest share
/// remains. Slots only when there is nothing else: every request holds one, so they would hide the rest.
pub fn tightest(readings: &[Reading]) -> Option<&Reading> {
    let enforced = || readings.iter().filter(|reading| reading.mode == LimitMode::Enforce);
    let refused = enforced().rev().filter(|reading| reading.refusal.is_some());
    let slots = |reading: &&Reading| matches!(reading.kind, Kind::Concurrency(_));
    let share = |a: &&Reading, b: &&Reading| {
        let (left, right) = (u128::from(a.remaining), u128::from(b.remaining));
        (left * u128::from(b.limit)).cmp(&(right * u128::from(a.limit)))
    };
    refused
        .max_by_key(|reading| reading.refusal)
        .or_else(|| enforced().filter(|reading| !slots(reading)).min_by(share))
        .or_else(|| enforced().min_by(share))
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
    use super::super::{Level, OnStoreError, Per, Period, Rate, Wait};
    use super::*;
    use proptest::prelude::*;
    use sfv::{BareItem, ListEntry, Parser};

    fn limit(id: &str, kind: Kind) -> Limit {
        Limit {
            id: id.into(),
            kind,
            per: Per::Tenant,
            exact: false,
            mode: LimitMode::Enforce,
            on_store_error: OnStoreError::Closed,
        }
    }

    fn reading(id: &str, kind: Kind, used: u64, reset_after: Option<i64>) -> Reading {
        let limit = match kind {
            Kind::Rate { burst, .. } => burst.into(),
            Kind::Quota(quota) => quota.amount(),
            Kind::Concurrency(slots) => slots.into(),
        };
        let remaining = limit.saturating_sub(used);
        let level = Level { limit, used, remaining, reset_after, window: None };
        Reading::new(&self::limit(id, kind), level, None)
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

    /// The members of a structured field's list: their strings, each with its parameters in order.
    fn members(line: &HeaderValue) -> Vec<(String, Vec<(String, BareItem)>)> {
        let list = Parser::parse_list(line.as_bytes()).expect("a list (RFC 9651 §4.2.1)");
        let member = |entry: ListEntry| match entry {
            ListEntry::Item(item) => match item.bare_item {
                BareItem::String(id) => (id, item.params.into_iter().collect()),
                other => panic!("not a string: {other:?}"),
            },
            ListEntry::InnerList(list) => panic!("not an item: {list:?}"),
        };
        list.into_iter().map(member).collect()
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        let rate = (1..=Rate::MAX, "s|min|h", 1..=Rate::MAX)
            .prop_map(|(units, per, burst)| rate(&format!("{units}/{per}"), burst));
        let quota = (1..=Quota::MAX, 0..Period::ALL.len())
            .prop_map(|(amount, at)| quota(&format!("{amount}/{}", Period::ALL[at].as_str())));
        prop_oneof![rate, quota, (1..=1_000_000u32).prop_map(Kind::Concurrency)]
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        use OnStoreError::{Local, Open};
        let how = prop_oneof![Just(None), Just(Some(Local)), Just(Some(Open))];
        let id = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";
        let numbers = (any::<u64>(), any::<u64>(), proptest::option::of(any::<i64>()));
        (id, any_kind(), numbers, how).prop_map(|(id, kind, (remaining, used, reset), how)| {
            let level =
                Level { limit: u64::MAX, used, remaining, reset_after: reset, window: None };
            Reading { degraded: how, ..Reading::new(&limit(&id, kind), level, None) }
        })
    }

    proptest! {
        /// As the draft has it: `q`, `w`, `r` and `t` are integers, `qu` is a string, and ours is a token.
        #[test]
        fn whatever_is_said_is_a_structured_field(
            readings in proptest::collection::vec(any_reading(), 1..=16)
        ) {
            let limits: Vec<Limit> =
                readings.iter().map(|reading| limit(reading.id.as_str(), reading.kind)).collect();
            let (policy, current) = (policy(&limits).unwrap(), current(&readings).unwrap());
            let told = members(&policy).into_iter().zip(members(&current));
            prop_assert_eq!(members(&policy).len(), readings.len());
            prop_assert_eq!(members(&current).len(), readings.len());
            for (reading, ((of_policy, policy), (id, left))) in readings.iter().zip(told) {
                prop_assert_eq!((&*of_policy, &*id), (reading.id.as_str(), reading.id.as_str()));
                for (name, value) in policy {
                    match &*name {
                        "q" | "w" => prop_assert!(value.as_int().is_some_and(|int| int > 0)),
                        "qu" => prop_assert_eq!(value.as_str(), Some("concurrent-requests")),
                        other => prop_assert!(false, "{}", other),
                    }
                }
                prop_assert_eq!(left.first().map(|(name, _)| &**name), Some("r"));
                for (name, value) in left {
                    match &*name {
                        "r" | "t" => prop_assert!(value.as_int().is_some_and(|int| int >= 0)),
                        "tollgate-degraded" => {
                            prop_assert_eq!(value.as_token(), reading.degraded.map(OnStoreError::as_str));
                        }
                        other => prop_assert!(false, "{}", other),
                    }
                }
            }
        }
    }

    #[test]
    fn what_only_observes_is_never_told() {
        let observing = Limit { mode: LimitMode::Observe, ..limit("new", quota("5/day")) };
        let level = Level { limit: 5, used: 9, remaining: 0, reset_after: Some(1), window: None };
        let seen = Reading::new(&observing, level, Some(Wait::For(7)));
        assert_eq!((policy([&observing]), current(std::slice::from_ref(&seen))), (None, None));
        assert_eq!(tightest(std::slice::from_ref(&seen)), None);
        let both = [limit("burst", rate("1/s", 5)), observing];
        assert_eq!(policy(&both).unwrap(), r#""burst";q=5;w=5"#);
        let both = [seen, reading("burst", rate("1/s", 5), 1, Some(1_000_000))];
        assert_eq!(current(&both).unwrap(), r#""burst";r=4;t=1"#);
        assert_eq!(tightest(&both).unwrap().id.as_str(), "burst");
    }

    #[test]
    fn a_limit_that_is_decided_without_the_store_says_so() {
        let mut reading = reading("burst", rate("1/s", 5), 1, Some(1_000_000));
        for (how, told) in [
            (OnStoreError::Local, r#""burst";r=4;t=1;tollgate-degraded=local"#),
            (OnStoreError::Open, r#""burst";r=4;t=1;tollgate-degraded=open"#),
        ] {
            reading.degraded = Some(how);
            assert_eq!(current(std::slice::from_ref(&reading)).unwrap(), told);
        }
    }
}
