//! How events are accepted: CloudEvents over HTTP, checked, kept, and only then answered. Admin and dispatcher share it.
//!
//! Invariants: what was answered with [`Accepted`] is on the disk; the events of a request are accepted whole or not at all;
//! whose an event is was judged before anything of it is kept.

mod commit;
mod judge;
mod rates;
mod rules;
#[cfg(test)]
mod tests;

pub use model::event::EVENTS_MAX;

use bytes::Bytes;
use commit::Commits;
use http::HeaderMap;
use judge::{Fit, Judge};
use model::event::CloudEvent;
use model::id::TenantId;
use model::revision::Revisions;
use model::webhook::{Acceptance, WebhookId};
use model::{Clock, ErrorCode, Reject};
use rates::{Counts, Rates};
use rules::{InForce, Rules};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use store::Store;
use store::webhooks::Arriving;

/// The largest body that is taken, in bytes: a batch.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// From how many bytes on events are judged away from the threads that serve.
const JUDGED_APART_FROM: usize = 64 << 10;

/// After how many seconds it is worth asking a store again that did not answer.
const STORE_RETRY_S: u64 = 1;

/// After how many seconds a backlog that is full may have room again.
const BACKLOG_RETRY_S: u64 = 10;

/// What events are accepted on.
pub struct Settings {
    /// Where they are kept.
    pub store: Store,
    /// Whoever holds the document.
    pub revisions: Arc<dyn Revisions>,
    /// The time.
    pub clock: Clock,
}

/// The door for events. One per process: rates are counted, and commits are shared, by its clones.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

struct Shared {
    in_force: InForce,
    rates: Rates,
    commits: Commits,
    clock: Clock,
}

/// Whom events are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody with a token.
    Producer,
    /// A source of the document: it sent a webhook, or was asked.
    Source,
    /// The gateway: its events are taken as they are, however many wait.
    Gateway,
}

/// What a request is answered with, with 202.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Accepted {
    /// Its events, in their order.
    pub accepted: Vec<AcceptedEvent>,
}

/// An event that is kept, by now or since before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AcceptedEvent {
    /// `source` of the event.
    pub source: String,
    /// `id` of the event.
    pub id: String,
    /// What receivers know it by.
    pub webhook_id: WebhookId,
}

impl Ingest {
    /// Opens the door, in the runtime that serves it. It is closed when the last clone is gone.
    pub fn start(settings: Settings) -> Self {
        let Settings { store, revisions, clock } = settings;
        Self(Arc::new(Shared {
            in_force: InForce::new(revisions),
            rates: Rates::default(),
            commits: Commits::start(store),
            clock,
        }))
    }

    /// Accepts the event or events of a request (CloudEvents 1.0: structured, binary, batch) of whoever may send those of
    /// `bound`, or of all tenants. A repeat is accepted again. Takes at most [`BODY_BYTES_MAX`].
    pub async fn accept(
        &self,
        bound: Option<&TenantId>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Accepted, Reject> {
        if body.len() > BODY_BYTES_MAX {
            return Err(Reject::new(ErrorCode::BodyTooLarge).detail("limit", BODY_BYTES_MAX));
        }
        let (bound, headers) = (bound.cloned(), headers.clone());
        let large = body.len() >= JUDGED_APART_FROM;
        let fit = self
            .judged(large, move |judge| {
                let sent = judge::read(&headers, &body)?;
                judge.fit(Origin::Producer, bound.as_ref(), sent)
            })
            .await?;
        self.keep_whole(fit).await
    }

    /// Accepts an event that was read here. A repeat is accepted again.
    pub async fn keep(&self, origin: Origin, event: CloudEvent) -> Result<Accepted, Reject> {
        let large = event.size() >= JUDGED_APART_FROM;
        let fit = self.judged(large, move |judge| judge.fit(origin, None, event.into())).await?;
        self.keep_whole(fit).await
    }

    /// Accepts events that were read here, each for itself and in their order. The list of outcomes ends with the first
    /// that can't be accepted for now: nothing overtakes it. A repeat takes nothing of its tenant's rate, so that who reads
    /// a list again and again gets on; of what is new, a list takes as much as it has, where there is room for one.
    pub async fn keep_each(
        &self,
        origin: Origin,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<Result<Acceptance, Reject>>, Reject> {
        let judged = self.judge_each(origin, events).await?;
        let mut told = self.keep_in_order(&judged).await?.into_iter();
        let mut outcomes = Vec::with_capacity(judged.len());
        let mut counts = Counts::new();
        for one in judged {
            let outcome = match one {
                Err(reject) => Err(reject),
                Ok(fit) => {
                    let Some(told) = told.next() else { break };
                    if told == Acceptance::Accepted {
                        add(&mut counts, fit.counts);
                    }
                    Ok(told)
                }
            };
            let is_last = matches!(outcome, Ok(Acceptance::Full));
            outcomes.push(outcome);
            if is_last {
                break;
            }
        }
        self.0.rates.note(&counts, self.0.clock.micros());
        Ok(outcomes)
    }

    /// What of a list may be kept, up to the first that can't be for now.
    async fn judge_each(
        &self,
        origin: Origin,
        events: Vec<CloudEvent>,
    ) -> Result<Vec<Result<Fit, Reject>>, Reject> {
        let (judge, now) = (self.judge().await?, self.0.clock.micros());
        let mut judged = Vec::with_capacity(events.len());
        for event in events {
            let fit = judge.fit(origin, None, event.into());
            let fit = fit.and_then(|fit| self.0.rates.have_room(&fit.counts, now).map(|()| fit));
            let is_last = fit.as_ref().is_err_and(|reject| waits(reject.code));
            judged.push(fit);
            if is_last {
                break;
            }
        }
        Ok(judged)
    }

    /// What became of those that may be kept: in one commit, and one by one where one of them is a conflict or there is no
    /// room for all, up to the first that is not kept for lack of room.
    async fn keep_in_order(
        &self,
        judged: &[Result<Fit, Reject>],
    ) -> Result<Vec<Acceptance>, Reject> {
        let fit = || judged.iter().flatten().map(|fit| &fit.arriving);
        let mut all = Arriving::default();
        for one in fit() {
            all.events.extend(one.events.iter().cloned());
            all.backlog.extend(one.backlog.clone());
        }
        if all.events.is_empty() {
            return Ok(Vec::new());
        }
        let told = self.0.commits.queue(all).await?.outcome().await?;
        let is_kept = |told: &Acceptance| matches!(told, Acceptance::Accepted | Acceptance::Repeat);
        if told.iter().all(is_kept) {
            return Ok(told);
        }
        let mut told = Vec::new();
        for one in fit() {
            let outcome = self.0.commits.queue(one.clone()).await?.outcome().await?;
            let is_last = outcome.contains(&Acceptance::Full);
            told.extend(outcome);
            if is_last {
                break;
            }
        }
        Ok(told)
    }

    async fn judge(&self) -> Result<Judge, Reject> {
        Ok(Judge(self.rules().await?))
    }

    /// What the document in force says.
    async fn rules(&self) -> Result<Arc<Rules>, Reject> {
        self.0.in_force.rules(|rules| self.0.rates.keep_only(rules)).await
    }

    async fn judged(
        &self,
        apart: bool,
        judging: impl FnOnce(&Judge) -> Result<Fit, Reject> + Send + 'static,
    ) -> Result<Fit, Reject> {
        let judge = self.judge().await?;
        if !apart {
            return judging(&judge);
        }
        let apart = tokio::task::spawn_blocking(move || judging(&judge)).await;
        apart.map_err(|error| Reject::new(ErrorCode::Internal).because(error))?
    }

    async fn keep_whole(&self, fit: Fit) -> Result<Accepted, Reject> {
        let Fit { arriving, form, counts } = fit;
        let shown = arriving.events.iter().map(|event| AcceptedEvent {
            source: event.source.clone(),
            id: event.id.clone(),
            webhook_id: event.webhook_id.clone(),
        });
        let accepted = Accepted { accepted: shown.collect() };
        if arriving.events.is_empty() {
            return Ok(accepted);
        }
        self.0.rates.charge(&counts, self.0.clock.micros())?;
        let outcomes = self.0.commits.queue(arriving).await?.outcome().await?;
        judge::refusal(&outcomes, form).map_or(Ok(accepted), Err)
    }
}

/// Whether the same event may be accepted later: its tenant is served again, or there is room again.
pub fn waits(code: ErrorCode) -> bool {
    code.retryable() || code == ErrorCode::TenantSuspended
}

fn add(counts: &mut Counts, more: Counts) {
    for (tenant, (count, rate)) in more {
        counts.entry(tenant).or_insert((0, rate)).0 += count;
    }
}
