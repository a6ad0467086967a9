//! `/v1/packs/{id}/rollouts` and `/v1/packs/{id}/differences`: how candidates fared, and where they decided differently.
//!
//! Invariant: a token that is bound to a tenant sees what was seen on its tenant's attachments, and nothing of others.

use super::{entries, own_attachments, text};
use crate::Shared;
use crate::acting::Acting;
use crate::allowed::Reader;
use crate::answer::Answer;
use crate::body::{Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::Refused;
use crate::search::id;
use axum::extract::State;
use jiff::Timestamp;
use model::ErrorCode;
use model::id::{AttachmentId, PackId, is_id};
use model::rollout::{Difference, RolloutInfo, RolloutState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use store::differences::DifferenceQuery;
use store::rollouts::RolloutQuery;

/// `?attachment=&limit=&cursor=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DifferencesQuery {
    attachment: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// A candidate on its way into service, and how it fares.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PackRollout")]
pub(crate) struct RolloutItem {
    /// Its id; sorts by time.
    id: String,
    /// Where the pack is attached.
    attachment: AttachmentId,
    /// The pack.
    pack: PackId,
    /// The running version.
    running: String,
    /// The candidate's version.
    candidate: String,
    /// When it began.
    started_at: Timestamp,
    /// Where it stands.
    state: RolloutState,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What all nodes saw in the present window, or in the last one.
    samples: Seen,
    /// The same as rates.
    rates: Rates,
}

/// What was seen of a candidate.
#[derive(Debug, Serialize, JsonSchema)]
struct Seen {
    /// How often it was asked.
    calls: u64,
    /// How often it failed by its own fault.
    faults: u64,
    /// Decisions that could be compared with the running version's.
    compared: u64,
    /// Those that differ.
    differences: u64,
}

/// What was seen, as rates; absent of nothing.
#[derive(Debug, Serialize, JsonSchema)]
struct Rates {
    /// Of its calls, those that failed: 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<f64>,
    /// Of the decisions that could be compared, those that differ: 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<f64>,
    /// Half of its calls took no longer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<u64>,
    /// 99 % of its calls took no longer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<u64>,
}

impl From<RolloutInfo> for RolloutItem {
    fn from(info: RolloutInfo) -> Self {
        let RolloutInfo { id, attachment, pack, running, candidate, started_at, .. } = info;
        let RolloutInfo { state, ended_at, reason, samples: seen, .. } = info;
        let rate = |count: u64, of: u64| (of > 0).then(|| count as f64 / of as f64);
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let rates = Rates {
            fault: rate(seen.faults, seen.calls),
            difference: rate(seen.differences, seen.compared),
            p50_us: seen.durations.percentile(50).map(micros),
            p99_us: seen.durations.percentile(99).map(micros),
        };
        let samples = Seen {
            calls: seen.calls,
            faults: seen.faults,
            compared: seen.compared,
            differences: seen.differences,
        };
        Self {
            id,
            attachment,
            pack,
            running,
            candidate,
            started_at,
            state,
            ended_at,
            reason,
            samples,
            rates,
        }
    }
}

/// `GET /v1/packs/{id}/rollouts`, newest first.
pub(super) async fn rollouts(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(pack): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("packs.rollouts", query.limit, query.cursor.as_deref())?;
    let wanted = Wanted::of(&shared, &acting, &pack, None).await?;
    let query = RolloutQuery {
        pack: Some(wanted.pack),
        attachments: wanted.attachments,
        before: page.after.clone(),
        limit: page.wanted(),
    };
    let found = shared.store.rollouts(&query).await?;
    let listed = page.listed(found, |info: &RolloutInfo| info.id.clone());
    Ok(Answer::ok(&listed.map(RolloutItem::from)))
}

/// `GET /v1/packs/{id}/differences`, newest first.
pub(super) async fn differences(
    State(shared): State<Arc<Shared>>,
    Reader(acting): Reader,
    Path(pack): Path<String>,
    Query(query): Query<DifferencesQuery>,
) -> Result<Answer, Refused> {
    let page = Page::of("packs.differences", query.limit, query.cursor.as_deref())?;
    let attachment = id("attachment", query.attachment)?;
    let wanted = Wanted::of(&shared, &acting, &pack, attachment).await?;
    let query = DifferenceQuery {
        pack: Some(wanted.pack),
        attachments: wanted.attachments,
        before: page.after.clone(),
        limit: page.wanted(),
    };
    let found = shared.store.differences(&query).await?;
    Ok(Answer::ok(&page.listed(found, |difference: &Difference| difference.id.clone())))
}

/// What is looked for.
struct Wanted {
    pack: PackId,
    /// On these attachments; on any when absent.
    attachments: Option<Vec<AttachmentId>>,
}

impl Wanted {
    /// 404 when the document has no such pack, or none that is attached for the tenant of who asks.
    async fn of(
        shared: &Shared,
        acting: &Acting,
        pack: &str,
        attachment: Option<AttachmentId>,
    ) -> Result<Self, Refused> {
        let newest = shared.newest().await?;
        let own = own_attachments(acting, &newest.document);
        let names = |entry: &&serde_json::Value| {
            let attached = text(entry, "/pack").and_then(|reference| reference.split_once('@'));
            let id = text(entry, "/id").unwrap_or_default();
            attached.is_some_and(|(name, _)| name == pack)
                && own.as_ref().is_none_or(|own| own.iter().any(|own| own.as_str() == id))
        };
        let is_there = match &own {
            None => {
                entries(&newest.document, "packs").any(|entry| text(entry, "/id") == Some(pack))
            }
            Some(_) => entries(&newest.document, "attachments").any(|entry| names(&entry)),
        };
        if !is_id(pack) || !is_there {
            return Err(ErrorCode::NotFound.into());
        }
        let attachments = match (own, attachment) {
            (own, None) => own,
            (None, Some(asked)) => Some(vec![asked]),
            (Some(own), Some(asked)) => Some(own.into_iter().filter(|id| *id == asked).collect()),
        };
        Ok(Self { pack: pack.into(), attachments })
    }
}
