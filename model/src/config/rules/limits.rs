//! What plans, upstreams and routes say of limits and of what is charged.

use super::Errors;
use crate::document::{Adaptive, Limit, Plan, Upstream};
use crate::exchange::{HOP_BY_HOP, RESPONSE_OWNED};
use crate::quota::Rate;
use crate::units::Duration;
use std::ops::RangeInclusive;
use std::time;

/// Longest time in which a burst comes back.
const BURST_MAX: Duration = seconds(366 * 86_400);
/// Of a tenant's baseline.
const HALF_LIFE: RangeInclusive<Duration> = seconds(10)..=seconds(7 * 86_400);
/// How long a tenant is looked at before it is slowed.
const PATIENCE: RangeInclusive<Duration> = seconds(1)..=seconds(3600);
/// The longest pause that an upstream may ask for.
const BACKOFF: RangeInclusive<Duration> = seconds(1)..=seconds(3600);
/// The limit by which a tenant is slowed, where its plan is adaptive.
const ADAPTIVE: &str = "adaptive";
/// Headers of an answer that say how it is read, and so no cost. Lower case.
const FRAMING: &[&str] = &["content-length", "content-type", "content-encoding", "date"];
/// Headers of an answer that hold or ask for credentials. Lower case.
const CREDENTIALS: &[&str] = &[
    "authentication-info",
    "authorization",
    "cookie",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "set-cookie",
    "www-authenticate",
    "x-api-key",
];

const fn seconds(seconds: u64) -> Duration {
    Duration(time::Duration::from_secs(seconds))
}

pub(super) fn check_plan(at: &str, plan: &Plan, errors: &mut Errors<'_>) {
    for (index, limit) in plan.limits.iter().enumerate() {
        let at = format!("{at}/limits/{index}");
        check_limit(&at, limit, errors);
        if plan.adaptive.is_some() && limit.id.as_str() == ADAPTIVE {
            errors.add(&at, "id", "is the name of what `adaptive` refuses by: take another one");
        }
    }
    if let Some(adaptive) = &plan.adaptive {
        check_adaptive(&format!("{at}/adaptive"), adaptive, errors);
    }
}

fn check_limit(at: &str, limit: &Limit, errors: &mut Errors<'_>) {
    let kinds = [limit.rate.is_some(), limit.quota.is_some(), limit.concurrency.is_some()];
    if kinds.iter().filter(|given| **given).count() != 1 {
        errors.add(at, "", "needs exactly one of `rate`, `quota` and `concurrency`");
    }
    check_burst(at, limit.rate, limit.burst, errors);
    if let Some(scope) = &limit.scope
        && scope.route.is_some() == scope.service.is_some()
    {
        errors.add(at, "scope", "needs exactly one of `route` and `service`");
    }
}

fn check_adaptive(at: &str, adaptive: &Adaptive, errors: &mut Errors<'_>) {
    errors.range(at, "half_life", Some(adaptive.half_life), &HALF_LIFE);
    errors.range(at, "patience", Some(adaptive.patience), &PATIENCE);
}

pub(super) fn check_upstream(at: &str, upstream: &Upstream, errors: &mut Errors<'_>) {
    for (index, limit) in upstream.limits.iter().enumerate() {
        let at = format!("{at}/limits/{index}");
        if limit.rate.is_some() == limit.concurrency.is_some() {
            errors.add(&at, "", "needs exactly one of `rate` and `concurrency`");
        }
        check_burst(&at, limit.rate, limit.burst, errors);
    }
    errors.range(at, "backoff/max", Some(upstream.backoff.max), &BACKOFF);
}

fn check_burst(at: &str, rate: Option<Rate>, burst: Option<u32>, errors: &mut Errors<'_>) {
    let Some(burst) = burst else { return };
    let Some(rate) = rate else { return errors.add(at, "burst", "stands without `rate`") };
    let (micros, _) = rate.time_of(burst);
    if u128::from(micros.unsigned_abs()) > BURST_MAX.0.as_micros() {
        errors.add(at, "burst", format!("takes more than 366 days to come back at {rate}"));
    }
}

pub(super) fn check_cost_header(at: &str, name: &str, errors: &mut Errors<'_>) {
    let name = name.to_ascii_lowercase();
    let is_in = |list: &[&str]| list.contains(&name.as_str());
    let why = if is_in(RESPONSE_OWNED) {
        "is a header that the gateway itself writes, whatever the upstream says in it"
    } else if is_in(CREDENTIALS) {
        "is a header of credentials"
    } else if is_in(HOP_BY_HOP) || is_in(FRAMING) {
        "says how the answer is sent or read, and no cost"
    } else {
        return;
    };
    errors.add(at, "cost_from_response_header", why);
}
