//! What the buffer holds of an exchange: what its facts held, moved or shared, without its head. Small and bounded, as
//! many wait while the store is down.

use crate::facts::{Facts, PackFact, Said, StageFact, UpstreamFact};
use crate::trace::fresh_id;
use http::Method;
use jiff::Timestamp;
use model::ErrorCode;
use model::id::{ConsumerId, NodeName, RouteId, TenantId, VersionName};
use model::quota::Reading;
use model::record::{LimitRecord, PackRecord, Record, StageRecord, UpstreamRecord};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// The longest path of a record, in bytes.
const PATH_MAX: usize = 1_024;
/// The longest cause, and the longest failure of a pack, in bytes.
const CAUSE_MAX: usize = 512;

/// An exchange that ended, on its way to become a record.
#[derive(Debug)]
pub struct Entry {
    id: Uuid,
    request_id: String,
    trace_id: String,
    at: Timestamp,
    took: Duration,
    revision: u64,
    method: Method,
    path: String,
    route: RouteId,
    tenant: Option<TenantId>,
    consumer: Option<ConsumerId>,
    version: Option<VersionName>,
    status: Option<u16>,
    error: Option<ErrorCode>,
    cause: Option<String>,
    stages: Vec<StageFact>,
    readings: Arc<[Reading]>,
    packs: Vec<PackFact>,
    idempotency: Option<&'static str>,
    upstream: Option<UpstreamFact>,
}

impl Entry {
    /// Moves out of the facts what can be moved, and shares the rest; only the path is copied. None without a route.
    pub(super) fn of(facts: &mut Facts, took: Duration) -> Option<Self> {
        let head = facts.head.as_ref()?;
        let end = head.path.floor_char_boundary(PATH_MAX);
        let mut packs = std::mem::take(&mut facts.packs);
        for pack in &mut packs {
            if let Err((_, detail)) = &mut pack.said {
                cut(detail);
            }
        }
        let mut cause = facts.cause.take();
        cause.iter_mut().for_each(cut);
        Some(Self {
            id: fresh_id(facts.at),
            request_id: std::mem::take(&mut facts.trace.request_id),
            trace_id: std::mem::take(&mut facts.trace.trace_id),
            at: facts.at,
            took,
            revision: facts.revision,
            method: head.method.clone(),
            path: head.path.get(..end).unwrap_or_default().to_owned(),
            route: facts.route.clone()?,
            tenant: facts.tenant.clone(),
            consumer: facts.consumer.clone(),
            version: facts.version.clone(),
            status: facts.status,
            error: facts.error,
            cause,
            idempotency: facts.key_outcome(),
            stages: std::mem::take(&mut facts.stages),
            readings: facts.readings.clone(),
            packs,
            upstream: facts.upstream.clone(),
        })
    }

    /// The record. The same each time.
    pub(super) fn record(&self, node: &NodeName) -> Record {
        Record {
            id: self.id.to_string(),
            request_id: self.request_id.clone(),
            trace_id: self.trace_id.clone(),
            at: self.at,
            took_us: micros(self.took),
            node: Some(node.clone()),
            revision: self.revision,
            method: self.method.as_str().to_owned(),
            path: self.path.clone(),
            route: self.route.clone(),
            tenant: self.tenant.clone(),
            consumer: self.consumer.clone(),
            version: self.version.clone(),
            status: self.status,
            error: self.error.map(|code| code.as_str().to_owned()),
            cause: self.cause.as_deref().map(storable),
            stages: self.stages.iter().map(stage).collect(),
            limits: self.readings.iter().map(limit).collect(),
            packs: self.packs.iter().map(pack).collect(),
            idempotency: self.idempotency.map(str::to_owned),
            upstream: self.upstream.as_ref().map(upstream),
        }
    }
}

fn stage(fact: &StageFact) -> StageRecord {
    StageRecord {
        stage: fact.stage.as_str().to_owned(),
        verdict: fact.verdict,
        took_us: micros(fact.took),
    }
}

fn limit(reading: &Reading) -> LimitRecord {
    LimitRecord {
        id: reading.id.clone(),
        limit: reading.limit,
        remaining: reading.remaining,
        refused: reading.refusal.is_some(),
        mode: reading.mode,
        degraded: reading.degraded,
    }
}

fn pack(fact: &PackFact) -> PackRecord {
    let mut record = PackRecord {
        attachment: fact.attachment.clone(),
        pack: fact.series.pack.clone(),
        version: fact.series.version.as_ref().to_owned(),
        phase: fact.phase.as_str().to_owned(),
        mode: fact.series.part.as_str().to_owned(),
        decision: fact.said.as_ref().map_or("failed", Said::as_str).to_owned(),
        cost: None,
        reason: None,
        failure: None,
        took_us: micros(fact.took),
    };
    match &fact.said {
        Ok(Said::Cost(units)) => record.cost = Some(*units),
        Ok(Said::Deny(reason)) => record.reason = Some(reason.clone()),
        Ok(Said::Continue | Said::Edit | Said::Answer) => {}
        Err((reason, detail)) => {
            record.failure = Some(storable(&format!("{}: {detail}", reason.as_str())));
        }
    }
    record
}

fn upstream(fact: &UpstreamFact) -> UpstreamRecord {
    UpstreamRecord { id: fact.id.clone(), status: fact.status, took_us: micros(fact.took) }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Cuts what the log has in full, and gives back the room that it took.
fn cut(text: &mut String) {
    if text.len() > CAUSE_MAX {
        text.truncate(text.floor_char_boundary(CAUSE_MAX));
        text.shrink_to_fit();
    }
}

/// Free text as every database takes it: PostgreSQL knows no NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
