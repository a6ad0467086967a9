//! The one log line of an exchange. No secret and no body.

use super::Series;
use crate::facts::{Facts, PackFact, Said};
use model::quota::{Kind, OnStoreError, Reading};
use std::time::Duration;

/// Writes it, where anybody listens.
pub(super) fn log(facts: &Facts, took: Duration) {
    if !tracing::enabled!(target: "exchange", tracing::Level::INFO) {
        return;
    }
    let field = |value: Option<&str>| value.map(str::to_owned).unwrap_or_default();
    let packs: Vec<String> = facts.packs.iter().map(told).collect();
    let limits: Vec<String> = facts.readings.iter().map(left).collect();
    tracing::info!(
        target: "exchange",
        request_id = facts.trace.request_id,
        trace_id = facts.trace.trace_id,
        revision = facts.revision,
        method = facts.head.as_ref().map(|head| head.method.as_str()).unwrap_or_default(),
        path = facts.head.as_ref().map(|head| head.path.as_str()).unwrap_or_default(),
        status = facts.status.unwrap_or(0),
        error = facts.error.map(|code| code.as_str()).unwrap_or_default(),
        cause = facts.cause.as_deref().unwrap_or_default(),
        route = field(facts.route.as_ref().map(|route| route.as_str())),
        tenant = field(facts.tenant.as_ref().map(|tenant| tenant.as_str())),
        consumer = field(facts.consumer.as_ref().map(|consumer| consumer.as_str())),
        version = field(facts.version.as_ref().map(|version| version.as_str())),
        idempotency = facts.idempotency.unwrap_or_default(),
        limits = limits.join(" "),
        packs = packs.join(" "),
        upstream_status = facts.upstream.as_ref().and_then(|upstream| upstream.status).unwrap_or(0),
        took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    );
}

/// `acme-pages:request@1.0.0=deny`; with the part of a version whose decision did not act.
fn told(pack: &PackFact) -> String {
    let Series { version, part, .. } = &*pack.series;
    let part = if part.acts() { String::new() } else { format!("({})", part.as_str()) };
    let what = match &pack.said {
        Ok(Said::Cost(units)) => format!("cost:{units}"),
        Ok(said) => said.as_str().to_owned(),
        Err((reason, detail)) => format!("failed:{}:{detail}", reason.as_str()),
    };
    format!("{}:{}@{version}{part}={what}", pack.attachment, pack.phase.as_str())
}

/// `daily:quota=99871/100000`; with what is different about how it was decided.
fn left(reading: &Reading) -> String {
    let kind = match reading.kind {
        Kind::Rate { .. } => "rate",
        Kind::Quota(_) => "quota",
        Kind::Concurrency(_) => "slots",
    };
    let mode = (!reading.mode.is_enforce()).then(|| reading.mode.as_str());
    let how: String = mode
        .into_iter()
        .chain(reading.degraded.map(OnStoreError::as_str))
        .map(|word| format!("({word})"))
        .collect();
    format!("{}{how}:{kind}={}/{}", reading.id, reading.remaining, reading.limit)
}
